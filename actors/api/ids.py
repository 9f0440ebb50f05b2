"""An id in a path: any text, as publishers may choose it, slashes and line ends too."""

from starlette.convertors import Convertor, register_url_convertor


class _AnyText(Convertor[str]):
    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("text", _AnyText())

ID = "{id:text}"
"""For the path of a route. Those that end in a word come before the one that does not."""
