"""OpenMeter's, Lago's and CloudEvents' SDKs of Python, told nothing but an address and a key."""

import datetime
import os

import requests
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent
from lago_python_client import Client as Lago
from lago_python_client.exceptions import LagoApiError
from lago_python_client.models import BatchEvent, Event as LagoEvent
from openmeter import Client as OpenMeter
from openmeter.models import Event

URL, KEY = os.environ["WEIR_URL"], os.environ["WEIR_KEY"]
NOW = datetime.datetime.now(datetime.timezone.utc)


def openmeter():
    with OpenMeter(endpoint=URL, token=KEY) as client:

        def event(number, tokens):
            return Event(id=f"openmeter-py-{number}", source="openmeter-py", specversion="1.0", type="tokens",
                         subject="team-01", time=NOW, data={"tokens": tokens})

        assert client.events.ingest_event(event(1, 100)) is None
        assert client.events.ingest_events([event(2, "200"), event(3, "0.5")]) is None


def lago():
    client = Lago(api_key=KEY, api_url=URL)
    sent = client.events.create(LagoEvent(
        transaction_id="lago-py-1", external_subscription_id="team-01", code="tokens",
        timestamp=str(NOW.timestamp()), properties={"tokens": "100"}, precise_total_amount_cents="12.5"))
    assert (sent.transaction_id, sent.properties["tokens"]) == ("lago-py-1", "100"), sent
    assert sent.precise_total_amount_cents == "12.5" and sent.lago_id, sent
    client.events.batch_create(BatchEvent(events=[
        LagoEvent(transaction_id="lago-py-2", external_subscription_id="team-01", code="tokens",
                  timestamp=int(NOW.timestamp()), properties={"tokens": 200}),
        LagoEvent(transaction_id="lago-py-3", external_subscription_id="team-01", code="tokens",
                  properties={"tokens": 0.5}),
    ]))
    try:
        client.events.batch_create(BatchEvent(events=[
            LagoEvent(transaction_id="lago-py-4", external_subscription_id="team-01", code="tokens"),
            LagoEvent(transaction_id="lago-py-5", external_subscription_id="", code="tokens"),
        ]))
    except LagoApiError as error:
        assert error.status_code == 400 and error.response["code"] == "subject_missing", error.response
    else:
        raise AssertionError("an event without a team was accepted")


def cloudevents():
    for number, write in enumerate([to_structured, to_binary], 1):
        attributes = {"id": f"cloudevents-py-{number}", "type": "tokens", "source": "cloudevents-py",
                      "subject": "team-01", "time": NOW.isoformat(), "datacontenttype": "application/json"}
        headers, body = write(CloudEvent(attributes, {"tokens": 100 * number}))
        answer = requests.post(f"{URL}/v1/events", data=body, headers={**headers, "Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["accepted"] == 1, answer.text


openmeter()
lago()
cloudevents()
