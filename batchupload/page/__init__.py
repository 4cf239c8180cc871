"""The report page: a CSV report → one HTML file for a person, which stands beside it."""
