"""What is known of a site's server, as far as the commands that are sent there depend on it."""

import attrs


@attrs.frozen
class Server:
    """A server. What is not known counts as new enough: then it is the server that refuses.

    The first version of each command and option is that of the commands' own documentation ("since", "history").
    """

    version: tuple[int, ...] = ()  # of Redis, as `redis_version` of INFO has it; (): not known
    payload_version: int | None = None  # the newest RDB version that its RESTORE takes; None: not known

    def since(self, *version: int) -> bool:
        """Is it this version of Redis, or newer?"""
        return not self.version or self.version >= version
