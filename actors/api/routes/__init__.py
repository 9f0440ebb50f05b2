"""One file a resource; each has a ``router``."""

import pkgutil
from importlib import import_module

from fastapi import FastAPI


def include(app: FastAPI) -> None:
    """Give the app all routes."""
    # Those of tasks are the last: an id may hold slashes, so that one of them is reached by many paths.
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    for name in sorted(names, key=lambda name: (name == "tasks", name)):
        app.include_router(import_module(f"{__name__}.{name}").router)
