"""Files, lists, batch lines and conversations -> prompts.

prompt         one prompt
reader         a file or a list -> prompts, in order
batch_lines    a line of an OpenAI batch file -> a prompt with its own sampling options
chat           messages -> token ids, by the model's chat template
duplicate_ids  finds prompt ids that are given twice, in bounded memory
"""

from headrace.generation.prompts.batch_lines import NEUTRAL_FIELDS
from headrace.generation.prompts.chat import (
    DEFAULT_TOKENS,
    ChatEncoder,
    ChatTemplate,
    load_chat_template,
)
from headrace.generation.prompts.prompt import Prompt
from headrace.generation.prompts.reader import PromptSource, PromptSurvey, read_prompts, survey_prompts

__all__ = [
    "DEFAULT_TOKENS",
    "NEUTRAL_FIELDS",
    "ChatEncoder",
    "ChatTemplate",
    "Prompt",
    "PromptSource",
    "PromptSurvey",
    "load_chat_template",
    "read_prompts",
    "survey_prompts",
]
