"""Other processes that read and send photos for a run."""
