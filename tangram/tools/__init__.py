"""The tools of coding agents, ready made: a shell that remembers, an editor, and the end.

    tools = CodingTools(trajectory)
    answer = model(messages, tools=tools.schemas())
    text = tools.call(call.function.name, call.function.arguments)

Built on the SDK's public calls alone. What a model does wrong is answered to it as text; what Tangram
fails at is raised, so that a sample is masked or retried and never punished.
"""

from .coding import AsyncCodingTools, CodingTools

__all__ = ["AsyncCodingTools", "CodingTools"]
