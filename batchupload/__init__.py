"""batchupload: re-uploads failed photo sets in bulk, and says for certain what became of each order."""

__version__ = "0.1.0"
