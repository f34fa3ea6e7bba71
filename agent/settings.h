/*
 * settings.h - from the checked dict of config.py to struct lg_settings.
 */
#ifndef LG_AGENT_SETTINGS_H
#define LG_AGENT_SETTINGS_H

#include <Python.h>

struct lg_agent;

/* Fills agent->settings and endpoint_thresholds. 0, or -1 with KeyError or
 * TypeError naming the key; the agent is then unchanged. GIL. */
int lg_settings_read(struct lg_agent *agent, PyObject *dict);

#endif
