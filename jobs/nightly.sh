#!/bin/sh
# One night's run, as schedulers start it: nightly.sh [DAY [OPTION OF batchrec run]...]
#
# DAY is the as-of date, and names the run; default today, UTC. Started in the folder that holds job.toml, with batchrec on
# the PATH. The same command again goes on with the night's run, or ends with 99 once that is published.
set -eu

day=${1:-$(date -u +%F)}
[ $# -eq 0 ] || shift

# Without --resume batchrec refuses a run that is published (exit code 2), with it a run that has not begun. A run that was
# killed between _SUCCESS and the move of `current` is taken up again.
output=$(sed -n 's/^output *= *"\([^"]*\)".*/\1/p' job.toml)
if [ -e "${output:-output}/$day/_SUCCESS" ]; then
  set -- --resume "$@"
fi
# exec, so that the scheduler's SIGTERM reaches batchrec itself.
exec batchrec run --config job.toml --as-of "$day" --run-id "$day" "$@"
