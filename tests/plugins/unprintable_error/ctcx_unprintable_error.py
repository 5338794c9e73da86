"""An exception whose message raises another one."""


class UnprintableError(Exception):
    def __str__(self):
        raise self

    __repr__ = __str__


raise UnprintableError
