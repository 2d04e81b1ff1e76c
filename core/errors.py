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
├── UntrustedHost               host_unknown
├── OriginForbidden           origin_forbidden
├── RangeNotSatisfiable       range_not_satisfiable
├── NotReady                  not_ready
├── TaskGone                  the task's own error, task_canceled or result_expired
├── Unavailable               worth another try later
│   ├── LedgerUnavailable     ledger_unavailable
│   ├── StorageUnavailable    storage_unavailable
│   └── QueueUnavailable      redis_unavailable
├── LimitExceeded                   the caller must wait
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

What each means to a caller stands in docs/api.md; how each becomes an HTTP answer in app/errors.py, where the first
line of a docstring serves as the example of a message.
"""

from typing import ClassVar


class KinoraError(Exception):
    """`message` is for a person, `code` for a program, `param` names the field at fault."""

    code: ClassVar[str]

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(KinoraError):
    code = "invalid_request"


class InvalidParameter(InvalidRequest):
    """width must be from 64 to 1024, a multiple of 64; got 1000"""

    code = "invalid_parameter"


class DestinationForbidden(InvalidRequest):
    """image_url must not lead to 10.0.0.1: only public addresses are allowed, and what FETCH_ALLOW names"""

    code = "destination_forbidden"


class FetchFailed(InvalidRequest):
    """image_url could not be fetched: it answered 404"""

    code = "fetch_failed"


class IdempotencyMismatch(InvalidRequest):
    """this Idempotency-Key was used with another request"""

    code = "idempotency_mismatch"


class FileMissing(InvalidRequest):
    """no picture was sent: upload one as the form's field file"""

    code = "file_missing"


class UploadTooLarge(InvalidRequest):
    """the picture may have at most 20 MB"""

    code = "upload_too_large"


class ImageUnsupported(InvalidRequest):
    """neither JPEG nor PNG nor WebP"""

    code = "image_unsupported"


class ImageUnreadable(InvalidRequest):
    """the picture ends before it is complete"""

    code = "image_unreadable"


class ImageTooLarge(InvalidRequest):
    """more pixels than are allowed"""

    code = "image_too_large"


class ImageTooSmall(InvalidRequest):
    """a side of fewer pixels than are needed"""

    code = "image_too_small"


class TaskExists(KinoraError):
    """The request was made before; `task_id` is what it made."""

    code = "task_exists"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"this request made the task {task_id}")
        self.task_id = task_id


class TaskNotFound(KinoraError):
    """there is no such task"""

    code = "task_not_found"


class ArtifactNotFound(KinoraError):
    """the file is not in the storage"""

    code = "artifact_not_found"


class PreviewMissing(KinoraError):
    """there is no preview of this task now"""

    code = "preview_missing"


class EndpointNotFound(KinoraError):
    """there is no such endpoint"""

    code = "endpoint_not_found"


class DeliveryNotFound(KinoraError):
    """there is no such delivery"""

    code = "delivery_not_found"


class ModelNotFound(KinoraError):
    """there is no such model"""

    code = "model_not_found"


class KeyNotFound(KinoraError):
    """there is no such key"""

    code = "key_not_found"


class Unauthorized(KinoraError):
    """an API key is needed: Authorization: Bearer, or X-API-Key"""

    code = "unauthorized"


class AdminRequired(KinoraError):
    """only an admin's key may ask for this"""

    code = "admin_required"


class UntrustedHost(KinoraError):
    """this service is not known as 'video.example.com': set PUBLIC_URL"""

    code = "host_unknown"


class OriginForbidden(KinoraError):
    """a page from https://example.com may not do this"""

    code = "origin_forbidden"


class RangeNotSatisfiable(KinoraError):
    """the range begins after the end; `size` is what there is, in bytes"""

    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"the range begins after the end: there are {size} bytes")
        self.size = size


class NotReady(KinoraError):
    """The task still runs; `retry_after` is in seconds."""

    code = "not_ready"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TaskGone(KinoraError):
    """There is no video and there will be none; `reason` takes the code's place: what the task ended with."""

    code = "task_gone"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(KinoraError):
    code = "unavailable"


class LedgerUnavailable(Unavailable):
    """the ledger does not answer"""

    code = "ledger_unavailable"


class LedgerTooNew(Exception):
    """Raised at start, or while a program runs: its code is too old for the ledger. No caller is told of it."""


class StorageUnavailable(Unavailable):
    """the storage does not answer"""

    code = "storage_unavailable"


class QueueUnavailable(Unavailable):
    """Redis does not answer"""

    code = "redis_unavailable"


class LimitExceeded(KinoraError):
    """`retry_after` is in seconds; None: when a place in the queue comes free."""

    code = "too_much"

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(LimitExceeded):
    """as many tasks wait as may wait"""

    code = "queue_full"


class QuotaExceeded(LimitExceeded):
    """this key has used up what it may use"""

    code = "quota_exceeded"


class RateLimited(LimitExceeded):
    """more requests than are allowed"""

    code = "rate_limited"


class StorageFull(KinoraError):
    """less disk space is free than must be left"""

    code = "storage_full"


class EngineUnavailable(KinoraError):
    """the engine cannot run here: no weights"""

    code = "engine_unavailable"


class StepFailed(KinoraError):
    code = "step_failed"


class AttemptsExhausted(StepFailed):
    """every attempt died before it could finish"""

    code = "attempts_exhausted"


class EngineFailed(StepFailed):
    """the engine broke"""

    code = "engine_failed"


class OutOfMemory(StepFailed):
    """the clip does not fit the GPU"""

    code = "gpu_out_of_memory"


class GpuLost(StepFailed):
    """the GPU reported an error after which nothing works in this process"""

    code = "gpu_lost"


class TimeLimitExceeded(StepFailed):
    """the step took longer than STEP_TIME_LIMIT"""

    code = "time_limit_exceeded"


class InputMissing(StepFailed):
    """the uploaded picture is no longer in the storage"""

    code = "input_missing"


class EncodingFailed(StepFailed):
    """the frames could not be encoded"""

    code = "encoding_failed"


class InternalError(StepFailed):
    """a fault of ours; the log has it"""

    code = "internal_error"
