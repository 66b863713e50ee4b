"""A running `headrace serve` -> a conversation in the terminal, with OpenAI's own client.

headrace serve --model model-dir &
python examples/stream_chat.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse

import openai


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--max-tokens", type=int, default=256)
    options = parser.parse_args()

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key)
    model = client.models.list().data[0].id
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = input("> ")
        except (EOFError, KeyboardInterrupt):
            return
        messages.append({"role": "user", "content": question})
        answer = ""
        with client.chat.completions.create(
            model=model, messages=messages, max_tokens=options.max_tokens, stream=True
        ) as chunks:
            for chunk in chunks:
                text = chunk.choices[0].delta.content or "" if chunk.choices else ""
                answer += text
                print(text, end="", flush=True)
        print()
        messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
