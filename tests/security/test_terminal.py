"""What data, models and servers say reaches a terminal as letters, and a page as text."""

import json
import logging
from pathlib import Path

import pytest

from ceeh import compare, fit
from ceeh.component import ConfigError
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.questions import Question
from ceeh.data.verify import RewardFunction
from ceeh.ranks import say
from ceeh.reporting.grid import Grid
from ceeh.starter.model import build_tokenizer
from ceeh.terminal import complain, plain
from ceeh.types import Completion, Finish, Prompt, RolloutGroup
from tests.commands import assert_refused, fit_arguments, said
from tests.evaluation.tables import *  # noqa: F403
