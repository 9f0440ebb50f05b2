"""The port of embedders: texts become vectors."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from service.errors import VergerError


class EmbedderUnavailable(VergerError):
    """The embedder did not answer, or not in time, or that it is busy: try again later. Nothing was embedded."""


class EmbedderRefused(VergerError):
    """The embedder will not embed this: another attempt with the same texts will fare no better.

    Also when an answer cannot be right: not as many vectors as texts, not all of one length, numbers that are none.
    """


class Embedder(Protocol):
    """Safe to use by many runs at once."""

    @property
    @abstractmethod
    def model(self) -> str:
        """Names the model: vectors of different models are never compared, those of one have one length. Kept with
        each vector."""

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, in their order, all of one length and of length 1 in the Euclidean sense.

        Raises EmbedderUnavailable, EmbedderRefused. Cancelled, it leaves nothing behind.
        """
