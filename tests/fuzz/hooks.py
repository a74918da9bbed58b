"""Hooks of Schemathesis: what tests/tests/openapi_fuzz.rs wants to know, and what it must not do.

WEIR_FUZZ_KEY_ID is the public id of the key that the run itself uses, WEIR_FUZZ_COUNTS the file that
gets the number of answers by operation and status.
"""

import atexit
import collections
import json
import os
import threading

import schemathesis

OWN_KEY = os.environ["WEIR_FUZZ_KEY_ID"]
lock = threading.Lock()
counts = collections.defaultdict(collections.Counter)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Ids are taken from lists: a run that revokes its own key is at its end."""
    if (case.path_parameters or {}).get("key_id") == OWN_KEY:
        case.path_parameters["key_id"] = OWN_KEY[::-1]


@schemathesis.hook
def after_call(context, case, response):
    """Counts every answer."""
    with lock:
        counts[case.operation.label][str(response.status_code)] += 1


@atexit.register
def write():
    with open(os.environ["WEIR_FUZZ_COUNTS"], "w", encoding="utf-8") as file:
        json.dump(counts, file)


@schemathesis.serializer("application/x-ndjson")
def ndjson(context, value):
    """Events line by line."""
    lines = value if isinstance(value, list) else [value]
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return "\n".join(texts).encode("utf-8", "surrogatepass")
