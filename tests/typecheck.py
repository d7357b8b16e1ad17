"""The run-time type checker of the tests: beartype, with int where float is asked (PEP 484's tower)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
