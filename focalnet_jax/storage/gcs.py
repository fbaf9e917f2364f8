"""gcsfs's file system, with failed requests repeated for the time that `storage.patience` sets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import urllib.parse
from typing import Any

import gcsfs
from gcsfs.retry import is_retriable

from focalnet_jax.storage.patience import PATIENCE, deadline

_PAUSE_SECONDS = 2.0  # pause between two rounds of gcsfs's own retries; a round takes half a minute


class PatientFileSystem(gcsfs.GCSFileSystem):
    """File system of the addresses `gs://`.

    The answer to a request can be lost. gcsfs then repeats a request that has succeeded, and finds no object to delete,
    or no upload to complete. Both count as success if the state of the bucket confirms it. TensorStore, which writes
    the arrays, repeats requests itself for more than 10 minutes.
    """

    async def _request(self, method, path, *args, data=None, **kwargs):
        until = deadline()
        while True:
            try:
                answer = await super()._request(method, path, *args, data=data, **kwargs)
            except FileNotFoundError:
                if method.upper() == "DELETE":
                    return 204, {}, None, b""
                if "upload_id=" not in path or (uploaded := await self._uploaded(path, data)) is None:
                    raise
                return uploaded
            except Exception as error:
                if not (is_retriable(error) or isinstance(error, TimeoutError)) or time.monotonic() > until:
                    raise
                PATIENCE.failed(error)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                PATIENCE.succeeded()
                return answer

    async def _uploaded(self, upload: str, data: Any) -> tuple | None:
        """Returns the response with an object's metadata if the object already has the content `data`, else None."""
        url = urllib.parse.urlsplit(upload)
        (name,) = urllib.parse.parse_qs(url.query).get("name", [""])
        found = await super()._request("GET", "b/{}/o/{}", url.path.split("/")[-2], name)
        same = json.loads(found[3]).get("md5Hash") == base64.b64encode(hashlib.md5(data or b"").digest()).decode()
        return found if same else None
