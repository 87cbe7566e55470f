"""LangChain's chat model for OpenAI."""

from __future__ import annotations

import os

import langchain_core
from langchain_openai import ChatOpenAI

url = os.environ["BASE_URL"] + "/v1"
model = ChatOpenAI(model="mock", base_url=url, api_key=os.environ["KEY"], use_responses_api=False)
assert model.invoke("Tell me something.").content
assert list(model.stream("Tell me something."))
assert len(model.batch(["One.", "Two."])) == 2
print(langchain_core.__version__)
