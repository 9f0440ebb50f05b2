"""The store on MongoDB, through motor. Nothing of the driver leaves this folder."""

from service.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
