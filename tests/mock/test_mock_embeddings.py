"""Embeddings and models by the official client."""

from __future__ import annotations

import base64
import math
import struct

import openai
import pytest

from fastgw.mock.behaviour import NAMED
from tests.mock.conftest import open_client


@pytest.mark.parametrize(
    ("value", "vectors", "tokens"),
    [
        ("three short words", 1, 3),
        (["one", "two words"], 2, 3),
        ([1, 2, 3, 4], 1, 4),
        ([[1, 2], [3, 4, 5]], 2, 5),
    ],
    ids=["text", "texts", "tokens", "token lists"],
)
async def test_inputs(client, value, vectors, tokens):
    """Texts, lists and token arrays give a unit vector each, and usage is exact."""
    answer = await client.embeddings.create(model="mock-embedding", input=value)
    assert [item.index for item in answer.data] == list(range(vectors))
    for item in answer.data:
        assert len(item.embedding) == 256
        assert math.isclose(math.hypot(*item.embedding), 1.0, rel_tol=1e-5)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


async def test_float_and_base64_agree(client, session):
    """Both encodings hold the same float32 values, and dimensions are obeyed."""
    request = {"model": "mock-embedding", "input": "hello", "dimensions": 12}
    floats = await (await session.post("/v1/embeddings", json=request)).json()
    coded = await (
        await session.post("/v1/embeddings", json=request | {"encoding_format": "base64"})
    ).json()
    raw = base64.b64decode(coded["data"][0]["embedding"])
    assert list(struct.unpack("<12f", raw)) == floats["data"][0]["embedding"]
    by_client = await client.embeddings.create(**request)
    assert by_client.data[0].embedding == floats["data"][0]["embedding"]


async def test_same_input_same_vector(client):
    """A text has its vector wherever it stands; another model's differs."""
    one = await client.embeddings.create(model="m", input=["a", "b"])
    two = await client.embeddings.create(model="m", input="b")
    other = await client.embeddings.create(model="n", input="b")
    assert one.data[1].embedding == two.data[0].embedding != other.data[0].embedding


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": None}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5000}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": []}, "encoding_format"),
        ({"model": 5}, "model"),
    ],
)
async def test_bad_requests(session, change, param):
    """What cannot be embedded is a 400 that names the field."""
    answer = await session.post("/v1/embeddings", json={"model": "m", "input": "a"} | change)
    assert answer.status == 400
    assert (await answer.json())["error"]["param"] == param


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("mock-usage-none", "absent"),
        ("mock-usage-null", None),
        ("mock-usage-more", {"prompt_tokens": 5, "total_tokens": 5}),
        ("mock-usage-string", {"prompt_tokens": "2", "total_tokens": "2"}),
    ],
)
async def test_lies(session, model, usage):
    """Embeddings lie about usage too."""
    answer = await session.post("/v1/embeddings", json={"model": model, "input": "two words"})
    assert (await answer.json()).get("usage", "absent") == usage


@pytest.mark.parametrize(
    ("model", "error"),
    [("mock-429", openai.RateLimitError), ("mock-cut", openai.APIConnectionError)],
)
async def test_faults(client, model, error):
    """Embeddings fail by model name as chat does."""
    with pytest.raises(error):
        await client.embeddings.create(model=model, input="a")


async def test_models(client, start_mock):
    """The list names what is served: the faults, or the models it was started with."""
    assert [model.id async for model in client.models.list()] == list(NAMED)
    assert (await client.models.retrieve("mock-cut")).id == "mock-cut"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-5")
    mock = await start_mock(models=("a", "b/c"))
    async with open_client(mock.base_url) as other:
        assert [model.id async for model in other.models.list()] == ["a", "b/c"]
        assert (await other.models.retrieve("b/c")).id == "b/c"
