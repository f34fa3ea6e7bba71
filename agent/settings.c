/*
 * settings.c - see settings.h.
 */
#include "settings.h"

#include <Python.h>

#include <string.h>

#include "agent.h"
#include "pycompat.h"
#include "text.h"

static PyObject *item(PyObject *dict, const char *name);
static int read_u64(PyObject *dict, const char *name, uint64_t *out);
static int read_u32(PyObject *dict, const char *name, uint32_t *out);
static int read_double(PyObject *dict, const char *name, double *out);
static int read_text(PyObject *dict, const char *name, char *out, size_t size);

int
lg_settings_read(struct lg_agent *agent, PyObject *dict)
{
    struct lg_settings s;
    memset(&s, 0, sizeof(s));
    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_TypeError, "settings must be a dict, not %.100s",
                     Py_TYPE(dict)->tp_name);
        return -1;
    }
    if (read_u64(dict, "threshold_ns", &s.config.threshold_ns) < 0 ||
        read_u64(dict, "iteration_threshold_ns", &s.config.iteration_threshold_ns) < 0 ||
        read_u64(dict, "cumulative_threshold_ns", &s.config.cumulative_threshold_ns) < 0 ||
        read_u64(dict, "cumulative_window_ns", &s.config.cumulative_window_ns) < 0 ||
        read_u64(dict, "cumulative_min_step_ns", &s.config.cumulative_min_step_ns) < 0 ||
        read_u64(dict, "watchdog_interval_ns", &s.config.watchdog_interval_ns) < 0 ||
        read_u32(dict, "stack_depth", &s.config.stack_depth) < 0 ||
        read_u32(dict, "max_endpoints", &s.config.max_endpoints) < 0 ||
        read_u32(dict, "keep_segment", &s.config.keep_segment) < 0 ||
        read_u32(dict, "segment_mode", &s.config.segment_mode) < 0 ||
        read_u32(dict, "hooks", &s.config.hooks) < 0 ||
        read_u32(dict, "task_factory", &s.config.task_factory) < 0 ||
        read_u32(dict, "adaptive", &s.config.adaptive) < 0 ||
        read_u64(dict, "monitor_interval_ns", &s.monitor_interval_ns) < 0 ||
        read_u64(dict, "adaptive_update_interval_ns", &s.adaptive_update_interval_ns) < 0 ||
        read_double(dict, "threshold_multiplier", &s.threshold_multiplier) < 0 ||
        read_double(dict, "adaptive_percentile", &s.adaptive_percentile) < 0 ||
        read_u32(dict, "calibration_iterations", &s.calibration_iterations) < 0 ||
        read_u32(dict, "adaptive_window_size", &s.adaptive_window_size) < 0 ||
        read_u32(dict, "adaptive_min_samples", &s.adaptive_min_samples) < 0 ||
        read_text(dict, "segment_dir", s.segment_dir, sizeof(s.segment_dir)) < 0 ||
        read_text(dict, "app", s.app, sizeof(s.app)) < 0 ||
        read_text(dict, "server", s.server, sizeof(s.server)) < 0 ||
        read_text(dict, "agent_version", s.version, sizeof(s.version)) < 0) {
        return -1;
    }
    PyObject *thresholds = item(dict, "endpoint_thresholds");
    if (thresholds == NULL) {
        return -1;
    }
    if (!PyDict_Check(thresholds)) {
        PyErr_SetString(PyExc_TypeError, "endpoint_thresholds must be a dict");
        return -1;
    }
    agent->settings = s;
    Py_XSETREF(agent->endpoint_thresholds, Py_NewRef(thresholds));
    return 0;
}

/* Borrowed; KeyError when it is not there. */
static PyObject *
item(PyObject *dict, const char *name)
{
    PyObject *value = PyDict_GetItemString(dict, name);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_KeyError, name);
    }
    return value;
}

static int
read_u64(PyObject *dict, const char *name, uint64_t *out)
{
    PyObject *value = item(dict, name);
    if (value == NULL) {
        return -1;
    }
    *out = PyLong_AsUnsignedLongLong(value);
    return PyErr_Occurred() ? -1 : 0;
}

static int
read_u32(PyObject *dict, const char *name, uint32_t *out)
{
    uint64_t wide;
    if (read_u64(dict, name, &wide) < 0) {
        return -1;
    }
    if (wide > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "%s is over %lu", name, (unsigned long)UINT32_MAX);
        return -1;
    }
    *out = (uint32_t)wide;
    return 0;
}

static int
read_double(PyObject *dict, const char *name, double *out)
{
    PyObject *value = item(dict, name);
    if (value == NULL) {
        return -1;
    }
    *out = PyFloat_AsDouble(value);
    return PyErr_Occurred() ? -1 : 0;
}

/* None is "". Cut to `size`. */
static int
read_text(PyObject *dict, const char *name, char *out, size_t size)
{
    PyObject *value = item(dict, name);
    if (value == NULL) {
        return -1;
    }
    out[0] = '\0';
    if (value == Py_None) {
        return 0;
    }
    const char *text = PyUnicode_AsUTF8(value);
    if (text == NULL) {
        return -1;
    }
    lg_text_set(out, size, text);
    return 0;
}
