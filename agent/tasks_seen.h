/*
 * tasks_seen.h - lengths that asyncio keeps anyway: tasks alive, handles ready.
 *
 * Read by the watchdog without the GIL, one word each, of objects that the
 * agent holds a reference to. Not known (LG_NONE) where asyncio keeps them
 * otherwise: uvloop has no list of ready handles, 3.14 no set of tasks.
 */
#ifndef LG_AGENT_TASKS_SEEN_H
#define LG_AGENT_TASKS_SEEN_H

struct lg_agent;
struct lg_loop;

/* Finds asyncio's set of tasks; once, under the GIL. Leaves no exception. */
void lg_tasks_seen_open(struct lg_agent *agent);

/* Writes both numbers into the loop's entry. The watchdog; no GIL. */
void lg_tasks_seen(const struct lg_agent *agent, const struct lg_loop *loop);

#endif
