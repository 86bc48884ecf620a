"""How the operator logs: lines for people, or one JSON object on each line."""

import json
import logging
from datetime import UTC, datetime

from dreambooth_operator.controller.app.settings import Log

PLAIN = "%(asctime)s %(levelname)-7s %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def configure(log: Log) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log.as_json else logging.Formatter(PLAIN))
    logging.basicConfig(level=log.level.upper(), handlers=[handler], force=True)
    # What kopf says about each event is of no interest.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.root.level))
