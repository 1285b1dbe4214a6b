"""
Coverage-guided fuzzing, with atheris, of everything that reads what others have written.

`target.py` says what a target is, the modules in `run.GROUPS` have the targets by topic, `files.py` is what
some of them share, `run.py` fuzzes them, and `corpus/` has the inputs from which it begins. `docs/fuzzing.md`
says how to use it and how to add a target.
"""
