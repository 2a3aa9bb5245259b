"""A judge model that grades open-ended answers from 0 to 10, beside the tasks' own scores.

It is asked through any server that speaks OpenAI's chat-completions protocol. A judge is how a run
is *looked at*, not what it is: it is not part of :class:`epi_bench.spec.run_spec.RunSpec`, so it
changes neither the run's identity nor its track, and its grade is never a primary metric.
"""

from epi_bench.evaluation.judge.settings import JudgeSettings

__all__ = ["JudgeSettings"]
