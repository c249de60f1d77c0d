"""OpenAI's and Anthropic's Python clients against a server whose model behaves as python-clients.test.ts scripts it.
Prints one JSON line: what each of them read."""

import json
import sys

import anthropic
import openai
from pydantic import BaseModel

url = sys.argv[1]
oai = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=20)
ant = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0, timeout=20)
ask = {"model": "m", "messages": [{"role": "user", "content": "weather?"}]}
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [{"type": "function", "function": {"name": "get_weather", "description": "weather", "parameters": schema}}]
read = {}


class Report(BaseModel):
    city: str
    celsius: int


def openai_loop(stream):
    messages = list(ask["messages"])
    for _ in range(5):
        body = {"model": "m", "messages": messages, "tools": tools}
        if stream:
            with oai.chat.completions.stream(**body) as events:
                for _ in events:
                    pass
                message = events.get_final_completion().choices[0].message
        else:
            message = oai.chat.completions.create(**body).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content
        for call in message.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"rain in {city}"})


read["openai"] = openai_loop(False)
read["openai stream"] = openai_loop(True)
parsed = oai.chat.completions.parse(model="m", messages=ask["messages"], response_format=Report)
read["openai parse"] = parsed.choices[0].message.parsed.model_dump()

function = {"type": "function", "name": "get_weather", "parameters": schema, "strict": False}
response = oai.responses.create(model="m", input="weather?", tools=[function])
while calls := [item for item in response.output if item.type == "function_call"]:
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"rain in {json.loads(call.arguments)['city']}"}
        for call in calls
    ]
    with oai.responses.stream(model="m", input=results, tools=[function], previous_response_id=response.id) as events:
        for _ in events:
            pass
        response = events.get_final_response()
read["responses"] = response.output_text


@anthropic.beta_tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"rain in {city}"


runner = ant.beta.messages.tool_runner(max_tokens=500, tools=[get_weather], **ask)
read["anthropic runner"] = "".join(b.text for b in runner.until_done().content if b.type == "text")
with ant.messages.stream(max_tokens=500, **ask, tools=[{"name": "get_weather", "input_schema": schema}]) as events:
    message = events.get_final_message()
read["anthropic stream"] = [b.type for b in message.content], message.stop_reason
try:
    ant.messages.create(model="nope", max_tokens=5, messages=ask["messages"])
except anthropic.NotFoundError as error:
    read["anthropic error"] = error.body["error"]["type"]
try:
    oai.chat.completions.create(model="m", messages=[], max_tokens=5)
except openai.BadRequestError as error:
    read["openai error"] = error.param
print(json.dumps(read, ensure_ascii=False))
