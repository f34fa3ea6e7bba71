/*
 * collect.h - pauses of the garbage collector, from gc.callbacks.
 *
 * A pause is charged to the loop whose thread it ran on, as a part of the
 * step that triggered it. Under the GIL.
 */
#ifndef LG_AGENT_COLLECT_H
#define LG_AGENT_COLLECT_H

#include <Python.h>

struct lg_agent;

/* Appends our callback to gc.callbacks; the feature says when it cannot. */
void lg_collect_install(struct lg_agent *agent);
void lg_collect_uninstall(struct lg_agent *agent);

/* gc's call of us: (phase, info). Never raises. */
void lg_collect_event(struct lg_agent *agent, PyObject *phase, PyObject *info);

#endif
