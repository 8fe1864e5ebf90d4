"""What is known of a site's server, as far as the commands that are sent there depend on it."""

import attrs


@attrs.frozen
class Server:
    """A server. What is not known counts as new enough: then it is the server that refuses.

    The first version of each command and option is that of the commands' own documentation ("since", "history").
    """

    version: tuple[int, ...] = ()  # of Redis, as `redis_version` of INFO has it; (): not known
    valkey: tuple[int, ...] = ()  # of Valkey, which says that it is Redis 7.2.4; (): it is none
    payload_version: int | None = None  # the newest RDB version that its RESTORE takes; None: not known

    def since(self, *version: int) -> bool:
        """Is it this version of Redis, or newer?"""
        return not self.version or self.version >= version

    @property
    def expires_fields(self) -> bool:
        """Does it know times to live of single fields of a hash?"""
        return self.valkey >= (9,) if self.valkey else self.since(7, 4)
