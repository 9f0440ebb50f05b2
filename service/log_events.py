"""Every event that the log may name: what it means, how loud it is, and its fields. docs/logs.md is made from this."""

from enum import StrEnum
from typing import Literal

Level = Literal["info", "warning", "error"]


class LogEvent(StrEnum):
    """``noun.past_participle`` · level · what happened · its fields.

    A field that does not apply is left out of a line. ``exception`` is the stack trace of a fault.
    """

    level: Level
    meaning: str
    fields: tuple[str, ...]

    def __new__(cls, value: str, level: Level, meaning: str, fields: str = "") -> "LogEvent":
        member = str.__new__(cls, value)
        member._value_ = value
        member.level, member.meaning, member.fields = level, meaning, tuple(fields.split())
        return member

    # ---- tasks -----------------------------------------------------------------------------------

    TASK_STARTED = "task.started", "info", "A run began.", "task_type id schedule_id attempt trace_id"
    TASK_FINISHED = (
        "task.finished",
        "info",
        "A run ended, and its end is stored. The numbers of the handler's result are fields too.",
        "task_type id schedule_id attempt status duration_ms reason retry_at error error_type trace_id",
    )
    TASK_FAILED = (
        "task.failed",
        "error",
        "A task became a dead letter.",
        "task_type id schedule_id attempt status duration_ms reason error error_type traceback trace_id",
    )
    TASK_TIMED_OUT = "task.timed_out", "warning", "A run exceeded its time limit.", "task_type id limit_seconds"
    TASK_STUCK = (
        "task.stuck",
        "error",
        "A handler does not stop although its time is up; its slot stays taken.",
        "task_type id attempt",
    )
    TASK_ABANDONED = (
        "task.abandoned",
        "warning",
        "A handler did not stop with its worker; its task was given back.",
        "task_type id attempt",
    )
    TASK_REFUSED = (
        "task.refused",
        "warning",
        "The end of a run was not written: its claim was lost meanwhile.",
        "task_type id attempt fence reason",
    )
    TASK_RESCUED = (
        "task.rescued",
        "warning",
        "The stale claim of a lost worker was taken away.",
        "task_type id attempt worker status",
    )
    TASK_DEDUPLICATED = (
        "task.deduplicated",
        "info",
        "A live task took the request; `again`: it runs once more.",
        "task_type id by again",
    )
    TASK_UNKNOWN_TYPE = (
        "task.unknown_type",
        "warning",
        "No loaded module handles a task; it waits for a roll-out.",
        "task_type id grace_seconds",
    )
    TASKS_PRUNED = "tasks.pruned", "info", "Finished tasks were deleted.", "completed cancelled failed"
    RUN_CRASHED = "run.crashed", "error", "A fault of Verger's own ended a run.", "task_type id exception"
    CLAIM_LOST = "claim.lost", "warning", "A run is stopped, for its claim is not this worker's.", "task_type id fence"
    CLAIMS_ADOPTED = "claims.adopted", "info", "Embedded mode took over what an earlier process left.", "count"
    MESSAGE_REFUSED = (
        "message.refused",
        "error",
        "A message that is no task became a dead letter.",
        "task_type id error reason",
    )
    LETTERS_REPLAYED = (
        "letters.replayed",
        "info",
        "Dead letters run again, as `verger.replay` was asked.",
        "by replayed refused",
    )
    TYPE_PAUSED = "type.paused", "info", "This worker takes no more tasks of a type.", "task_type"
    TYPE_RESUMED = "type.resumed", "info", "This worker takes tasks of a type again.", "task_type"
    RELAY_PUBLISHED = (
        "relay.published",
        "info",
        "Tasks that the store held and the broker did not were published.",
        "task_type count",
    )

    # ---- schedules -------------------------------------------------------------------------------

    SCHEDULE_FIRED = "schedule.fired", "info", "A fire made its task.", "schedule_id task_type id lag_ms"
    SCHEDULE_SKIPPED = "schedule.skipped", "info", "A fire made no task.", "schedule_id reason by"
    SCHEDULE_MISFIRED = "schedule.misfired", "warning", "Fires fell due too long ago.", "schedule_id missed policy"
    SCHEDULE_INVALID = "schedule.invalid", "error", "A stored schedule cannot be read; it stops.", "schedule_id error"
    SCHEDULE_OVERDUE = (
        "schedule.overdue",
        "warning",
        "The last success is too long ago; said once, by one scheduler of all.",
        "schedule_id task_type last_success_at overdue_since",
    )
    SCHEDULE_RECOVERED = (
        "schedule.recovered",
        "info",
        "A schedule is not overdue any more: it succeeded, or was edited or paused.",
        "schedule_id task_type reason",
    )
    FIRE_TAKEN_OVER = (
        "fire.taken_over",
        "warning",
        "A fire that another scheduler left open is finished here.",
        "schedule_id by left_by",
    )
    FIRE_TOO_LATE = "fire.too_late", "warning", "Fires could not be finished in time; another look does.", "schedules"

    # ---- processes and their parts ---------------------------------------------------------------

    VERGER_STARTED = "verger.started", "info", "All roles of a process run.", "version roles task_types"
    VERGER_STOPPING = "verger.stopping", "info", "A signal asks the process to end.", "signal"
    VERGER_STOPPED = "verger.stopped", "info", "The process has drained and ends."
    VERGER_FAILED = "verger.failed", "error", "The process ends, for it cannot go on.", "error"
    WORKER_STARTED = "worker.started", "info", "The worker takes tasks.", "worker task_types"
    WORKER_STOPPED = (
        "worker.stopped",
        "info",
        "The worker has drained; `released` runs were given back.",
        "worker released left_running seconds",
    )
    SCHEDULER_STARTED = "scheduler.started", "info", "The scheduler does its duties.", "duties"
    SCHEDULER_STOPPED = "scheduler.stopped", "info", "The scheduler has ended."
    DUTY_POSTPONED = (
        "duty.postponed",
        "warning",
        "A duty could not reach a server; it is tried again.",
        "duty error again_in_seconds",
    )
    CLOCK_STEPPED = "clock.stepped", "warning", "The machine's clock was set; all duties look now."
    ACTOR_CRASHED = (
        "actor.crashed",
        "error",
        "A fault of Verger's own ended an actor; it starts again.",
        "actor crashes restart_in_seconds exception",
    )
    ACTOR_STOP_TIMED_OUT = "actor.stop_timed_out", "warning", "An actor did not end in time; it is cut off.", "actor"
    HEALTH_LISTENING = "health.listening", "info", "Probes and metrics are answered here.", "host port"
    LOOP_BLOCKED = (
        "loop.blocked",
        "warning",
        "Something kept the event loop from turning, most likely a handler.",
        "seconds",
    )
    PROCESS_STARTED = "process.started", "info", "A child of `--processes` was started.", "pid restarts"
    PROCESS_DIED = (
        "process.died",
        "error",
        "A child of `--processes` ended by itself.",
        "pid exit_code signal restarts restart_in_seconds",
    )
    PROCESS_REFUSED = (
        "process.refused",
        "error",
        "The machine has no room for another child.",
        "error restarts restart_in_seconds",
    )
    PROCESSES_STOPPING = "processes.stopping", "info", "A signal asks all children to end.", "signal"
    PROCESSES_STOPPED = "processes.stopped", "info", "All children have ended.", "exit_code"
    MONGOD_STARTED = "mongod.started", "info", "The private MongoDB of embedded mode serves.", "url pid duration_ms"

    # ---- the admin API -----------------------------------------------------------------------------

    API_STARTED = "api.started", "info", "The admin API listens.", "url"
    API_STOPPED = "api.stopped", "info", "The admin API has ended; `cut` answers were not finished in time.", "cut"
    AUDIT_NOTED = (
        "audit.noted",
        "info",
        "Somebody changed something by the admin API.",
        "who action target before after",
    )
    AUDIT_LOST = "audit.lost", "error", "The store did not take a line of the audit; the log has it.", "action error"
    ACCESS_REFUSED = "access.refused", "warning", "A request had no valid key.", "address method path"
    KEYS_LOADED = "keys.loaded", "info", "The file of keys has changed; these are in force.", "file names"
    KEYS_REFUSED = "keys.refused", "error", "Part of the file of keys cannot be read; it is left out.", "file error"
    REQUEST_FAILED = (
        "request.failed",
        "error",
        "A fault of Verger's own ended a request; the caller has the `reference`.",
        "reference method path exception",
    )

    # ---- store and broker ------------------------------------------------------------------------

    SERVER_UNAVAILABLE = (
        "server.unavailable",
        "warning",
        "A server cannot be reached at the start; it is tried again.",
        "server error again_in_seconds",
    )
    STORE_UNAVAILABLE = (
        "store.unavailable",
        "warning",
        "The store does not answer; nothing is lost, work waits.",
        "error task_type waiting",
    )
    HEARTBEAT_FAILED = "heartbeat.failed", "warning", "Claims could not be renewed; tried again.", "error claims"
    HEARTBEAT_CRASHED = (
        "heartbeat.crashed",
        "error",
        "A fault of Verger's own kept claims from being renewed; tried again.",
        "error claims exception",
    )
    BROKER_UNAVAILABLE = "broker.unavailable", "warning", "The broker does not answer.", "error task_type"
    BROKER_CONNECTED = "broker.connected", "info", "A connection to the broker is up.", "broker purpose"
    BROKER_LOST = "broker.lost", "warning", "A connection to the broker is lost.", "broker purpose reason"
    BROKER_CONNECT_FAILED = (
        "broker.connect_failed",
        "warning",
        "The broker could not be reached; tried again.",
        "broker purpose reason",
    )
    BROKER_CONNECT_CRASHED = (
        "broker.connect_crashed",
        "error",
        "A fault of Verger's own kept it from connecting; tried again.",
        "broker purpose exception",
    )
    BROKER_PUBLISH_REFUSED = (
        "broker.publish_refused",
        "warning",
        "Messages were not confirmed; relay brings them back.",
        "reason messages",
    )
    BROKER_REDECLARE_FAILED = "broker.redeclare_failed", "warning", "Queues could not be declared anew.", "reason"
    CONSUMER_ATTACHED = "consumer.attached", "info", "A queue is consumed again.", "queue"
    CONSUMER_LOST = "consumer.lost", "warning", "The broker stopped feeding a consumer.", "queue"
    CONSUMER_ATTACH_FAILED = (
        "consumer.attach_failed",
        "warning",
        "A queue could not be consumed; tried again.",
        "queue reason",
    )
    CONSUMER_ATTACH_CRASHED = (
        "consumer.attach_crashed",
        "error",
        "A fault of Verger's own kept it from consuming; tried again.",
        "queue exception",
    )
    CONSUMER_CALLBACK_FAILED = (
        "consumer.callback_failed",
        "error",
        "A fault of Verger's own lost a delivery; the broker delivers it again.",
        "queue exception",
    )
    CONTROL_REFUSED = "control.refused", "warning", "A control message could not be read.", "reason size"
    CONTROL_CALLBACK_FAILED = (
        "control.callback_failed",
        "error",
        "A fault of Verger's own: a control message was not obeyed.",
        "command exception",
    )

    EVENT_REFUSED = "event.refused", "warning", "A message on the events exchange is no event.", "reason size"
    EVENT_CALLBACK_FAILED = (
        "event.callback_failed",
        "error",
        "A fault of Verger's own: an event did not reach who listens.",
        "name exception",
    )

    # ---- the actors of files and graph -----------------------------------------------------------

    GC_COMPLETED = (
        "gc.completed",
        "info",
        "Blobs that nothing refers to were condemned, and those condemned earlier were swept; `dry`: they would be.",
        "scanned marked condemned pardoned swept bytes_freed duration_ms dry",
    )
    RECORD_FAILED = (
        "record.failed",
        "warning",
        "A record could not be worked on; it is skipped.",
        "collection record error",
    )
    CURSOR_REWOUND = (
        "cursor.rewound",
        "warning",
        "A cursor lay ahead of now, for the clock was set back; all is looked at again.",
        "cursor",
    )
    CACHE_EVICTED = "cache.evicted", "info", "An in-memory cache of this worker let go of entries.", "cache entries"
    CACHE_FAILED = "cache.failed", "error", "An in-memory cache could not let go of entries.", "cache exception"

    # ---- the actors of sessions ------------------------------------------------------------------

    ROOT_MISSING = "root.missing", "warning", "A folder of sessions is not there.", "root fix"
    FILE_FAILED = "file.failed", "warning", "A session file could not be read.", "path error"
    LINE_SKIPPED = "line.skipped", "warning", "A line of a session file is no record.", "path line reason"
    LINES_SKIPPED = "lines.skipped", "warning", "More such lines than are logged one by one.", "path malformed"
    BACKUP_PUBLISHED = "backup.published", "info", "A backup is complete.", "backup folder"
    BACKUP_REMOVED = "backup.removed", "info", "Rotation removed a backup.", "backup"
    BACKUP_DAMAGED = "backup.damaged", "warning", "A folder among the backups is none.", "problem fix"
    ROTATION_REFUSED = "rotation.refused", "warning", "Rotation would remove too many backups.", "would_remove of fix"
    MEMBER_DAMAGED = "member.damaged", "warning", "A file of an earlier backup has changed.", "backup file fix"
    MEMBER_UNLINKABLE = "member.unlinkable", "info", "A file could not be linked; it is copied.", "backup file error"
    TARGET_FAILED = "target.failed", "warning", "Part of a backup could not be made.", "kind name error"
    ARCHIVE_PUBLISHED = (
        "archive.published",
        "info",
        "An archive is complete; `merged`: of so many finer ones.",
        "archive members bytes merged",
    )
    ARCHIVE_DAMAGED = (
        "archive.damaged",
        "warning",
        "An archive is not what was written; it stays as it is.",
        "archive problem fix",
    )

    # ---- the actors of memories ------------------------------------------------------------------

    CANDIDATE_REJECTED = "candidate.rejected", "warning", "A candidate is no memory.", "tenant candidate problem"
    CLUSTER_FAILED = "cluster.failed", "warning", "A cluster could not be summarised.", "tenant cluster error"
    CURSOR_UNREADABLE = (
        "cursor.unreadable",
        "warning",
        "Audit rows stay, since the cursor of the tenant's SIEM endpoint says nothing.",
        "tenant fix",
    )
    ENDPOINT_INVALID = (
        "endpoint.invalid",
        "warning",
        "The SIEM endpoint of a tenant is not written as it should be.",
        "tenant problem",
    )
    INTEGRATION_INVALID = (
        "integration.invalid",
        "warning",
        "An integration cannot be synchronised as it is written.",
        "tenant integration problem",
    )
    ITEM_SKIPPED = "item.skipped", "warning", "What a connector found is no candidate.", "integration item problem"
    MEMORY_FAILED = "memory.failed", "warning", "A memory could not be worked on.", "tenant memory error"
    WEBHOOK_DELIVERED = (
        "webhook.delivered",
        "info",
        "An endpoint took a message.",
        "endpoint message_id status http_status duration_ms",
    )
    WEBHOOK_FAILED = (
        "webhook.failed",
        "warning",
        "A message was not delivered: `failed` is tried again, `rejected` is not; the endpoint may now be `disabled`.",
        "endpoint message_id status http_status error",
    )


BOUND = ("task_type", "id", "attempt", "schedule_id", "worker", "trace_id")
"""What every line has that is written while a handler runs, by whatever logger."""
