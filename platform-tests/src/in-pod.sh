# Runs a program in a pod whose workload is a shell (`Workload::shell`), as if it ran here:
#   sh -c "$(cat in-pod.sh)" in-pod.sh JOBS PROGRAM ARGUMENT...
# Words must not need quoting: paths, names and numbers.
jobs=$1
shift
job=$(mktemp -d "$jobs/job.XXXXXX")
mkfifo "$job/in" "$job/out" "$job/err"
cat > "$job/run" <<RUN
exec < $job/in > $job/out 2> $job/err
$*
echo \$? > $job/status
RUN
echo "$job/run" > "$jobs/queue"
exec 3<&0
cat <&3 > "$job/in" & input=$!
cat "$job/out" & output=$!
cat "$job/err" >&2 & errors=$!
wait $output $errors
kill $input 2> /dev/null
read -r status < "$job/status"
exit "$status"
