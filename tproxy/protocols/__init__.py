"""Mail protocols, one folder each. A third party's package adds modules to this one's path."""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
