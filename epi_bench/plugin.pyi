# Strategies
from epi_bench.errors import TrainingFailedError as TrainingFailedError
from epi_bench.isolation import Isolation as Isolation
from epi_bench.isolation.saved_state import state_part as state_part
from epi_bench.model.chat.chat_encoder import ChatEncoder as ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample as EncodedExample
from epi_bench.strategy.elastic_anchor import ElasticAnchor as ElasticAnchor
from epi_bench.strategy.fisher import diagonal_fisher as diagonal_fisher
from epi_bench.strategy.fisher import experience_fisher as experience_fisher
from epi_bench.strategy.generator_state import generator_state as generator_state
from epi_bench.strategy.generator_state import set_generator_state as set_generator_state
from epi_bench.strategy.hooks import Experience as Experience
from epi_bench.strategy.hooks import Step as Step
from epi_bench.strategy.hooks import StrategyContext as StrategyContext
from epi_bench.strategy.isolation_strategy import IsolationStrategy as IsolationStrategy
from epi_bench.strategy.scores import normalise as normalise
from epi_bench.strategy.scores import reassign as reassign
from epi_bench.strategy.scores import unit_mean as unit_mean
from epi_bench.strategy.strategy import Strategy as Strategy
from epi_bench.strategy.strategy import register_strategy as register_strategy

# Tasks
from epi_bench.sandbox import CodeRunner as CodeRunner
from epi_bench.sandbox import Limits as Limits
from epi_bench.sandbox import Program as Program
from epi_bench.sandbox import Verdict as Verdict
from epi_bench.task.answer_programs import complete_function as complete_function
from epi_bench.task.answer_programs import python_code as python_code
from epi_bench.task.classification_task import ClassificationTask as ClassificationTask
from epi_bench.task.code_task import CodeTask as CodeTask
from epi_bench.task.code_task import pass_at_k as pass_at_k
from epi_bench.task.dataset_task import DatasetTask as DatasetTask
from epi_bench.task.dataset_task import Skipped as Skipped
from epi_bench.task.example import Example as Example
from epi_bench.task.example import Message as Message
from epi_bench.task.example import Prediction as Prediction
from epi_bench.task.example import ask as ask
from epi_bench.task.example import conversation as conversation
from epi_bench.task.generated_task import SYNTHETIC_WORDS as SYNTHETIC_WORDS
from epi_bench.task.generated_task import GeneratedTask as GeneratedTask
from epi_bench.task.instruction_task import InstructionTask as InstructionTask
from epi_bench.task.python_source import defined_names as defined_names
from epi_bench.task.python_source import used_names as used_names
from epi_bench.task.rows.row import Row as Row
from epi_bench.task.rows.row import is_missing as is_missing
from epi_bench.task.rows.source import DataSource as DataSource
from epi_bench.task.rows.source import Split as Split
from epi_bench.task.task import Task as Task
from epi_bench.task.task import TaskCard as TaskCard
from epi_bench.task.task import register_task as register_task
from epi_bench.task.text_scores import score_text as score_text
from epi_bench.task.written_numbers import marked_number as marked_number

# Streams
from epi_bench.spec.streams import ExperiencePlan as ExperiencePlan
from epi_bench.spec.streams import register_stream as register_stream
