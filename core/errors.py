"""Every error that Kinora tells a caller about, with its stable code.

KinoraError
├── InvalidRequest            the caller can mend it
│   ├── InvalidParameter      invalid_parameter
│   ├── DestinationForbidden  destination_forbidden
│   ├── FetchFailed           fetch_failed
│   ├── IdempotencyMismatch   idempotency_mismatch
│   ├── FileMissing           file_missing
│   ├── UploadTooLarge        upload_too_large
│   ├── ImageUnsupported      image_unsupported
│   ├── ImageUnreadable       image_unreadable
│   ├── ImageTooLarge         image_too_large
│   └── ImageTooSmall         image_too_small
├── TaskExists                no error to a caller: the answer is the task that is there
├── TaskNotFound              task_not_found
├── ArtifactNotFound          artifact_not_found
├── PreviewMissing            preview_missing
├── EndpointNotFound          endpoint_not_found
├── DeliveryNotFound          delivery_not_found
├── ModelNotFound             model_not_found
├── KeyNotFound               key_not_found
├── Unauthorized              unauthorized
├── AdminRequired             admin_required
├── HeaderInvalid             header_invalid
├── UntrustedHost             host_unknown
├── OriginForbidden           origin_forbidden
├── PreconditionFailed        precondition_failed
├── RangeNotSatisfiable       range_not_satisfiable
├── NotReady                  not_ready
├── TaskGone                  the task's own error, task_canceled or result_expired
├── Unavailable               worth another try later
│   ├── LedgerUnavailable     ledger_unavailable
│   ├── StorageUnavailable    storage_unavailable
│   ├── QueueUnavailable      redis_unavailable
│   └── NotTaken              provider_refused
├── LimitExceeded             the caller must wait
│   ├── QueueFull             queue_full
│   ├── QuotaExceeded         quota_exceeded
│   └── RateLimited           rate_limited
├── StorageFull               storage_full
├── EngineUnavailable         engine_unavailable
└── StepFailed                what a task can end with
    ├── AttemptsExhausted     attempts_exhausted
    ├── EngineFailed          engine_failed
    ├── OutOfMemory           gpu_out_of_memory
    ├── GpuLost               gpu_lost
    ├── TimeLimitExceeded     time_limit_exceeded
    ├── InputMissing          input_missing
    ├── EncodingFailed        encoding_failed
    └── InternalError         internal_error

What each means to a caller stands in docs/api.md; app/errors.py makes HTTP answers of them.
"""

from enum import Enum
from typing import ClassVar


class Retry(Enum):
    NEVER = "it would end the same way again"
    AT_ONCE = "elsewhere, or in a fresh process, it may go well"
    LATER = "after a while"


class KinoraError(Exception):
    """`message` is for a person, `code` for a program, `param` names the field at fault."""

    code: ClassVar[str]
    status: ClassVar[int] = 500
    """Of the HTTP answer that tells a caller of it."""
    retry: ClassVar[Retry] = Retry.NEVER
    """Whether the same may succeed when it is tried again, by a caller or as another attempt at a step."""
    example: ClassVar[str] = ""
    """A message, for the documents, and for callers if the message itself is for the log only."""

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        """`retry_after`: seconds after which to try again, if that is known."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class InvalidRequest(KinoraError):
    code = "invalid_request"
    status = 422


class InvalidParameter(InvalidRequest):
    code = "invalid_parameter"
    example = "width must be from 64 to 1024, a multiple of 64; got 1000"


class DestinationForbidden(InvalidRequest):
    code = "destination_forbidden"
    example = "image_url must not lead to 10.0.0.1: only public addresses are allowed, and what FETCH_ALLOW names"


class FetchFailed(InvalidRequest):
    code = "fetch_failed"
    example = "image_url could not be fetched: it answered 404"


class IdempotencyMismatch(InvalidRequest):
    code = "idempotency_mismatch"
    example = "this Idempotency-Key was used with another request"


class FileMissing(InvalidRequest):
    code = "file_missing"
    example = "no picture was sent: upload one as the form's field file"


class UploadTooLarge(InvalidRequest):
    code = "upload_too_large"
    status = 413
    example = "the picture may have at most 20 MB"


class ImageUnsupported(InvalidRequest):
    code = "image_unsupported"
    status = 415
    example = "a kind of file that is not read: a PDF document"


class ImageUnreadable(InvalidRequest):
    code = "image_unreadable"
    example = "the picture ends before it is complete"


class ImageTooLarge(InvalidRequest):
    code = "image_too_large"
    example = "more pixels than are allowed"


class ImageTooSmall(InvalidRequest):
    code = "image_too_small"
    example = "a side of fewer pixels than are needed"


class TaskExists(KinoraError):
    """The request was made before; `task_id` is what it made."""

    code = "task_exists"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"this request made the task {task_id}")
        self.task_id = task_id


class TaskNotFound(KinoraError):
    code = "task_not_found"
    status = 404
    example = "there is no such task"


class ArtifactNotFound(KinoraError):
    code = "artifact_not_found"
    status = 404
    example = "the file is not in the storage"


class PreviewMissing(KinoraError):
    code = "preview_missing"
    status = 404
    example = "there is no preview of this task now"


class EndpointNotFound(KinoraError):
    code = "endpoint_not_found"
    status = 404
    example = "there is no such endpoint"


class DeliveryNotFound(KinoraError):
    code = "delivery_not_found"
    status = 404
    example = "there is no such delivery"


class ModelNotFound(KinoraError):
    code = "model_not_found"
    status = 404
    example = "there is no such model"


class KeyNotFound(KinoraError):
    code = "key_not_found"
    status = 404
    example = "there is no such key"


class Unauthorized(KinoraError):
    code = "unauthorized"
    status = 401
    example = "an API key is needed: Authorization: Bearer, or X-API-Key"


class AdminRequired(KinoraError):
    code = "admin_required"
    status = 403
    example = "only an admin's key may ask for this"


class HeaderInvalid(KinoraError):
    code = "header_invalid"
    status = 400
    example = "Host must be sent once; it came 2 times"


class UntrustedHost(KinoraError):
    code = "host_unknown"
    status = 421
    example = "this service is not known as 'kinora.example.com': name it in ALLOWED_HOSTS, or in PUBLIC_URL"


class OriginForbidden(KinoraError):
    code = "origin_forbidden"
    status = 403
    example = "a page from https://example.com may not do this"


class PreconditionFailed(KinoraError):
    """What is there is not what the caller's If-Match or If-Unmodified-Since names."""

    code = "precondition_failed"
    status = 412
    example = "If-Match does not name what is there"


class RangeNotSatisfiable(KinoraError):
    """the range begins after the end; `size` is what there is, in bytes"""

    code = "range_not_satisfiable"
    status = 416
    example = "the range begins after the end: there are 1024 bytes"

    def __init__(self, size: int) -> None:
        super().__init__(f"the range begins after the end: there are {size} bytes")
        self.size = size


class NotReady(KinoraError):
    """The task still runs."""

    code = "not_ready"
    status = 409
    example = "the task is started"
    retry = Retry.LATER


class TaskGone(KinoraError):
    """There is no video and there will be none; `reason` takes the code's place: what the task ended with."""

    code = "task_gone"
    status = 410
    example = "the result was deleted"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(KinoraError):
    code = "unavailable"
    status = 503
    retry = Retry.LATER


class LedgerUnavailable(Unavailable):
    code = "ledger_unavailable"
    example = "the ledger does not answer"


class Unusable(Exception):
    """Raised as a process starts: a setting, or a store with its setting's name, that no waiting can mend. It ends the
    process with this one line; no caller is told of it."""


class LedgerTooNew(Unusable):
    """Raised at start, or while a program runs: its code is too old for the ledger."""


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"
    example = "the storage does not answer"


class QueueUnavailable(Unavailable):
    code = "redis_unavailable"
    example = "Redis does not answer"


class NotTaken(Unavailable):
    """Somebody else's server has refused a job for now: it was asked, and has begun nothing."""

    code = "provider_refused"
    example = "the provider takes no job now"


class LimitExceeded(KinoraError):
    """Without `retry_after`: when a place in the queue comes free."""

    code = "too_much"
    status = 429
    retry = Retry.LATER


class QueueFull(LimitExceeded):
    code = "queue_full"
    example = "as many tasks wait as may wait"


class QuotaExceeded(LimitExceeded):
    code = "quota_exceeded"
    example = "this key has used up what it may use"


class RateLimited(LimitExceeded):
    code = "rate_limited"
    example = "more requests than are allowed"


class StorageFull(KinoraError):
    code = "storage_full"
    status = 507
    example = "less disk space is free than must be left"


class EngineUnavailable(KinoraError):
    code = "engine_unavailable"
    status = 503
    example = "the engine cannot run here: no weights"


class StepFailed(KinoraError):
    code = "step_failed"


class AttemptsExhausted(StepFailed):
    code = "attempts_exhausted"
    example = "every attempt died before it could finish"


class EngineFailed(StepFailed):
    code = "engine_failed"
    example = "the engine broke"


class OutOfMemory(StepFailed):
    code = "gpu_out_of_memory"
    example = "the clip does not fit the GPU"


class GpuLost(StepFailed):
    code = "gpu_lost"
    retry = Retry.AT_ONCE
    example = "the GPU reported an error after which nothing works in this process"


class TimeLimitExceeded(StepFailed):
    code = "time_limit_exceeded"
    retry = Retry.AT_ONCE
    example = "the step took longer than STEP_TIME_LIMIT"


class InputMissing(StepFailed):
    code = "input_missing"
    example = "the uploaded picture is no longer in the storage"


class EncodingFailed(StepFailed):
    code = "encoding_failed"
    example = "the frames could not be encoded"


class InternalError(StepFailed):
    code = "internal_error"
    example = "a fault of ours; the log has it"
