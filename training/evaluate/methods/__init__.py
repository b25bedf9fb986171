"""Methods of a sweep: how a question and a grid point become requests, and their replies one answer."""
