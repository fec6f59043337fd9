"""Inside of an environment."""


def only(env):
    """The session of an environment that has no `datasets`, and so only one."""
    (session,) = env.episodes.sessions()
    return session
