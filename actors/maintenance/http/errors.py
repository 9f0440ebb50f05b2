"""How a request can fail. No message shows more of a URL than its scheme, host and port: the rest may be a secret."""

from service.errors import Unavailable, VergerError


class HttpRefused(VergerError):
    """The request was not sent and never will be: its URL, its headers or where it leads to is not allowed."""


class HttpUnavailable(Unavailable):
    """No answer, or none that can be used: try again later. The request may have been received."""
