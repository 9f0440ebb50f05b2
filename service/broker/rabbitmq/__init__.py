"""RabbitMQ 3.10 and later, through aio-pika; its driver aiormq directly where that is several times faster."""

from service.broker.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
