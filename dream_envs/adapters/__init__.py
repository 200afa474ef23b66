"""Our games in other people's frameworks, and theirs here: one module a framework, imported only when it is asked for.

``adapters.trl`` (TRL's trainers), ``adapters.verifiers`` (environments of verifiers 0.4), ``adapters.inspect`` (tasks
and logs of Inspect), ``adapters.export`` (Hugging Face datasets).  What a framework cannot carry is refused, never
dropped.
"""
