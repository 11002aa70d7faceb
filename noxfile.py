"""What there is to run, by name: ``nox -l`` lists it, ``nox -s lint tests`` runs two of them.

Each session has an environment of its own in ``.nox/``, made once and then used again. In an
environment that has requirements-dev.txt already, ``nox --no-venv -s lint`` runs there and installs
nothing. ``.ci/run`` does what CI does, in a fresh environment.
"""

import nox
from nox.virtualenv import PassthroughEnv

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_venv = "yes"


def install(session: nox.Session, *packages: str) -> None:
    """Install packages, but not into the environment of whoever asked for none of its own."""
    if not isinstance(session.virtualenv, PassthroughEnv):
        session.install(*packages)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, imports between rooms, and types."""
    install(session, "-r", "requirements-dev.txt")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("lint-imports", "--no-cache", "--no-logo")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default suite; what follows -- goes to pytest."""
    install(session, "-r", "requirements-dev.txt")
    session.run("pytest", *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """Run everything, the slow tests too."""
    install(session, "-r", "requirements-dev.txt")
    session.run("pytest", "-m", "slow or not slow", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build, with the output of the examples."""
    install(session, "-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time the quantum layer beside other libraries; what follows -- goes to experiments.bench."""
    install(session, "-r", "requirements.txt", "-e", ".[bench]")
    session.run("python", "-m", "experiments.bench", *session.posargs)
