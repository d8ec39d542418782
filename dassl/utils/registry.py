"""Name -> class tables with decorator use."""

from .errors import unknown_name


class Registry:
    """A table of objects under their __name__.

    The same source object may be registered again (a plugin imported under a second module name); two different
    ones under one name are an error, unless the first says `replaceable`: a reader of our table gives way to a
    plugin's of the same name.
    """

    def __init__(self, name):
        self._name, self._objects = name, {}

    def register(self, obj=None, force=False):
        """Decorator, or a direct call with the object."""
        if obj is None:
            return lambda wrapped: self.register(wrapped, force=force)
        name = obj.__name__
        known = self._objects.get(name)
        if known is not None and not (force or getattr(known, "replaceable", False) or _same(known, obj)):
            raise KeyError(f"{name} is registered in {self._name} already")
        self._objects[name] = obj
        return obj

    def get(self, name):
        if name not in self._objects:
            raise unknown_name(self._name.lower(), name, self._objects)
        return self._objects[name]

    def registered_names(self):
        return list(self._objects)

    def __contains__(self, name):
        return name in self._objects


def _same(a, b):
    """Whether two objects come from the same lines of the same file."""
    import inspect

    try:
        return (inspect.getsourcefile(a), inspect.getsource(a)) == (inspect.getsourcefile(b), inspect.getsource(b))
    except (OSError, TypeError):
        return a is b
