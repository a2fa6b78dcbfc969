from . import callbacks as callbacks
from . import objectives as objectives
from . import strategies as strategies
from .callbacks import default_callbacks as default_callbacks
from .data.datamodule import PromptData as PromptData
from .data.json_datamodule import JsonPrompts as JsonPrompts
from .errors import UserError as UserError
from .experience import Prompt as Prompt
from .mini.data import MiniPrompts as MiniPrompts
from .module import G2RPOModule as G2RPOModule
from .objectives import G2RPO as G2RPO
from .objectives import Objective as Objective
from .policy.config import LoraConfig as LoraConfig
from .policy.config import PolicyConfig as PolicyConfig
from .rewards import RewardConfig as RewardConfig
from .rewards import RewardResult as RewardResult
from .rewards import score as score
from .rewards.running.judge import JudgeConfig as JudgeConfig
from .rewards.running.limits import Limits as Limits
from .rollout.config import EvaluationConfig as EvaluationConfig
from .rollout.config import RolloutConfig as RolloutConfig
from .rollout.config import UpdateConfig as UpdateConfig
from .tasks import Task as Task

__version__: str
