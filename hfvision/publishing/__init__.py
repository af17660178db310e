"""Models go to the Hub, or to any server that speaks its protocol: `push`, and `add_code` for trust_remote_code."""

from hfvision.publishing.code import add_code
from hfvision.publishing.report import PushReport
from hfvision.publishing.upload import push

__all__ = ["PushReport", "add_code", "push"]
