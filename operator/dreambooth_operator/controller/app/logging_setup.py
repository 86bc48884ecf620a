"""How the operator logs: lines for people, or one JSON object per line."""

import json
import logging
from datetime import UTC, datetime

from dreambooth_operator.controller.app.settings import Log

PLAIN = "%(asctime)s %(levelname)-7s %(message)s"


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message and, if any, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; times are RFC 3339 with milliseconds, in UTC."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def set_up_logging(log: Log) -> None:
    """Log to standard error, replacing the handlers that imported libraries have set."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log.as_json else logging.Formatter(PLAIN))
    logging.basicConfig(level=log.level.upper(), handlers=[handler], force=True)
    # kopf logs a line for each event.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.root.level))
