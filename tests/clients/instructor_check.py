"""What instructor makes of a gateway before upstream.py, in each of its modes; BASE and KEY say where."""

import logging
import os
import typing

import instructor
import openai
import pydantic
from instructor import Mode
from instructor.core.exceptions import InstructorRetryException

PNG = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
       "rkJggg==")
CONNECTION = {"base_url": os.environ["BASE"], "api_key": os.environ["KEY"], "max_retries": 0}


class Stop(pydantic.BaseModel):
    """A stop of a trip."""

    city: str
    days: int


class Trip(pydantic.BaseModel):
    """A trip."""

    stops: list[Stop]
    far: bool


class Weather(pydantic.BaseModel):
    """The weather in a city."""

    city: str


class Time(pydantic.BaseModel):
    """The time in a city."""

    zone: str


TRIP = Trip(stops=[Stop(city="Rome", days=7)] * 2, far=True)
# Those of its modes that are for OpenAI's API, and which of its endpoints.
CHAT = ["FUNCTIONS", "TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON", "JSON_O1"]
RESPONSES = ["RESPONSES_TOOLS", "RESPONSES_TOOLS_WITH_INBUILT_TOOLS"]
# They are given the schema in words.
IN_WORDS = ["JSON", "MD_JSON", "JSON_O1"]


def is_trip(got):
    # Of a class of its own.
    assert got.model_dump() == TRIP.model_dump(), got


def user(content):
    return [{"role": "user", "content": content}]


def raises(kind, word, act):
    try:
        result = act()
    except kind as error:
        assert word in str(error), error
        return error
    raise AssertionError(f"no {kind}: {result}")


def check(name):
    mode = Mode[name]
    client = instructor.from_openai(openai.OpenAI(**CONNECTION), mode=mode)

    def words(value):
        text = value.model_dump_json()
        block = f"```json {text} ```" if name == "MD_JSON" else text
        return user(f"where: say {block}" if name in IN_WORDS else "where")

    more = {"model": "default"}
    is_trip(client.create(response_model=Trip, messages=words(TRIP), **more))
    trip, raw = client.create_with_completion(response_model=Trip, messages=words(TRIP), **more)
    is_trip(trip)
    assert raw.usage.total_tokens == 21, raw
    # The calls of a reply that is stored come whole.
    live = {"store": False} if name in RESPONSES else {}
    trips = list(client.create_partial(response_model=Trip, messages=words(TRIP), **live, **more))
    is_trip(trips[-1])
    assert len(trips) > 2, trips

    class Stops(pydantic.BaseModel):
        tasks: list[Stop]

    stops = words(Stops(tasks=TRIP.stops))
    got = list(client.create_iterable(response_model=Stop, messages=stops, **more))
    assert [stop.model_dump() for stop in got] == [stop.model_dump() for stop in TRIP.stops], got
    said = words(TRIP)[0]["content"]
    parts = [{"type": "text", "text": said}, {"type": "image_url", "image_url": {"url": PNG}}]
    if name in RESPONSES:
        parts = [{"type": "input_text", "text": said}, {"type": "input_image", "image_url": PNG, "detail": "auto"}]
    for content in (parts, [said, instructor.Image.from_base64(PNG)]):
        is_trip(client.create(response_model=Trip, messages=user(content), **more))
    for status in (400, 401, 404, 429, 500):
        raises(InstructorRetryException, "you asked for", lambda: client.create(
            response_model=Trip, messages=user(f"error {status}"), max_retries=1, **more))


def parallel():
    client = instructor.from_openai(openai.OpenAI(**CONNECTION), mode=Mode.PARALLEL_TOOLS)
    kinds = typing.Iterable[Weather | Time]
    got = list(client.create(model="default", messages=user("call all"), response_model=kinds))
    assert got == [Weather(city="Rome"), Time(zone="Rome")], got


# The others begin with the name of a provider.
assert {mode.name for mode in Mode} >= {*CHAT, *RESPONSES, "PARALLEL_TOOLS"}
# It tells of every error that is wanted here.
logging.disable()
for name in CHAT + RESPONSES:
    check(name)
parallel()
