"""
Coverage-guided fuzzing, with atheris, of everything that reads what others have written.

`target.py` says what a target is, the other modules have the targets by topic, `run.py` fuzzes them, and
`corpus/` has the inputs from which it begins. `docs/fuzzing.md` says how to use it and how to add a target.
"""
