"""What can go wrong between us and a model behind HTTP.

EndpointError      the endpoint can't be used: unreachable for long
  EndpointRefuses  nor will it be until something of the user's changes: wrong key, URL or model, another API
RequestRefused     this one request was refused, or its reply holds no answer; others may go well
CacheError         the file of calls can't be used
"""


class EndpointError(RuntimeError):
    """Stops the run; the calls made so far are on disk."""


class EndpointRefuses(EndpointError):
    """The same command would be refused again."""


class RequestRefused(RuntimeError):
    """Is recorded with its question, and asked again by the next run."""


class CacheError(RuntimeError):
    """Names the file and what is wrong with it."""
