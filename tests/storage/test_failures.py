"""Errors of the libraries that read buckets: permission, credentials, a missing bucket, or the service."""

import errno

import gcsfs.retry
import google.api_core.exceptions
import google.auth.exceptions
import pytest
import requests.exceptions

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.failures import storage_error, unreadable

EXPIRED, FORBIDDEN = "no valid credentials", "no permission"


def transport(cause=None):
    error = google.auth.exceptions.RefreshError("server")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "number", "text"),
    [
        (google.auth.exceptions.RefreshError("invalid_grant"), errno.EACCES, EXPIRED),
        (google.auth.exceptions.RefreshError("later", retryable=True), errno.EIO, "later"),
        (transport(google.auth.exceptions.TransportError("no route")), errno.EIO, "server"),
        (google.auth.exceptions.DefaultCredentialsError("none"), errno.EACCES, "gcloud auth application-default login"),
        (google.auth.exceptions.TransportError("no route"), errno.EIO, "no route"),
        (google.api_core.exceptions.Forbidden("role"), errno.EACCES, FORBIDDEN),
        (google.api_core.exceptions.Unauthorized("token"), errno.EACCES, EXPIRED),
        (google.api_core.exceptions.NotFound("bucket"), errno.ENOENT, "there is no bucket bucket; create it first"),
        (google.api_core.exceptions.ServiceUnavailable("busy"), errno.EIO, "busy"),
        (gcsfs.retry.HttpError({"code": 401, "message": "Invalid Credentials"}), errno.EACCES, EXPIRED),
        (gcsfs.retry.HttpError({"code": 403, "message": "role"}), errno.EACCES, FORBIDDEN),
        (gcsfs.retry.HttpError({"code": 429, "message": "slow down"}), errno.EIO, "slow down"),
        (gcsfs.retry.HttpError({"code": 503, "message": "credentials server busy"}), errno.EIO, "busy"),
        (OSError("Forbidden: b/bucket/o\nrole"), errno.EACCES, FORBIDDEN),
        (requests.exceptions.ConnectionError("refused"), errno.EIO, "refused"),
        (TimeoutError(), errno.EIO, "no answer in time"),
        (ValueError("PERMISSION_DENIED: Error reading gs://b/o: Forbidden [x='401']"), errno.EACCES, FORBIDDEN),
        (ValueError("PERMISSION_DENIED: Error reading gs://b/o: Unauthorized [x='1']"), errno.EACCES, EXPIRED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_named_by_its_type(error, number, text):
    found = storage_error(error, "gs://bucket/name")
    assert found.errno == number
    assert text in found.strerror
    assert isinstance(unreadable("gs://bucket/name", found), RunFailedError if number == errno.EIO else UserError)
