"""One chat by the client that `openapi-python-client` made: prints the answer as JSON."""

import json
import sys

from mint_api import AuthenticatedClient
from mint_api.api.openai import chat_v1_chat_completions_post as chat
from mint_api.models import ChatBody, ChatCompletionResponse

url, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, timeout=120)
body = ChatBody.from_dict(
    {"model": "tiny", "messages": [{"role": "user", "content": "2 4 6 8"}], "max_tokens": 4}
)
answer = chat.sync(client=client, body=body)
assert isinstance(answer, ChatCompletionResponse), answer
print(json.dumps(answer.to_dict()))
