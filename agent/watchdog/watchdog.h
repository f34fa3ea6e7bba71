/*
 * watchdog.h - a thread without the GIL that notices a stuck loop while it is
 * stuck, and says where and why.
 *
 * start and stop want the GIL (stop waits for the thread, which never takes
 * it). Ticks every watchdog_interval, more slowly when all loops have been in
 * poll for a second; no timer wakes an idle worker otherwise. The only writer
 * of STALLS, STACKS, ANCHOR and ring 2.
 */
#ifndef LG_AGENT_WATCHDOG_H
#define LG_AGENT_WATCHDOG_H

struct lg_agent;
struct lg_watchdog;

/* 0 or -errno; the thread runs at once. */
int lg_watchdog_start(struct lg_agent *agent);
/* Ends the thread after a last look at the notes. */
void lg_watchdog_stop(struct lg_agent *agent);
/* In a forked child: the thread is not there any more. */
void lg_watchdog_forget(struct lg_agent *agent);

#endif
