/*
 * agent.c - ties the rooms together: armed, awake, stopped, forked, off.
 */
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "../common/lg_error.h"
#include "asgi/asgi.h"
#include "charge.h"
#include "collect.h"
#include "cuts.h"
#include "hooks/hooks.h"
#include "names.h"
#include "pool.h"
#include "pycompat.h"
#include "select.h"
#include "settings.h"
#include "slices/slice.h"
#include "step.h"
#include "task.h"
#include "tasks_seen.h"
#include "text.h"
#include "threshold.h"
#include "watchdog/watchdog.h"
#include "workers.h"

/* A loop that starts while another one wakes us waits for that, some
 * milliseconds; not for ever, because waking imports modules. */
#define WAKE_TRIES 1000u

static bool begin_change(struct lg_agent *agent, uint32_t tries);
static bool wake(struct lg_agent *agent);
static int find_asyncio(struct lg_agent *agent);
static void end_with_multiprocessing(struct lg_agent *agent);
static int open_segment(struct lg_agent *agent);
static void open_features(struct lg_agent *agent);
static void close_all(struct lg_agent *agent, bool keep);
static void show_paused(struct lg_agent *agent);
static void log_line(const char *text);
static uint64_t threshold_set(struct lg_agent *agent, enum lg_endpoint_kind kind,
                              enum lg_method method, const char *name, size_t length);
static int add_number(PyObject *dict, const char *name, uint64_t value);

static const char *const feature_names[LG_FEATURE_COUNT] = {
#define LG_X(name, text) [LG_FEATURE_##name] = text,
    LG_FEATURE_LIST(LG_X)
#undef LG_X
};
static const char *const method_names[] = {
#define LG_X(name, number, text) [number] = text,
    LG_METHODS(LG_X)
#undef LG_X
};

/* ---- armed ------------------------------------------------------------- */

int
lg_agent_start(struct lg_agent *agent, PyObject *settings)
{
    if (agent->state == LG_AGENT_AWAKE || agent->state == LG_AGENT_ARMED) {
        return 0;
    }
    if (lg_settings_read(agent, settings) < 0) {
        return -1;
    }
    if (agent->off_fd >= 0) {
        close(agent->off_fd);
        agent->off_fd = -1;
    }
#ifdef Py_GIL_DISABLED
    lg_agent_off(agent, "free-threaded Python is not supported yet");
    return 0;
#else
    agent->state = LG_AGENT_ARMED;
    return 0;
#endif
}

/* ---- awake ------------------------------------------------------------- */

bool
lg_agent_awake(struct lg_agent *agent)
{
    if (agent->state != LG_AGENT_ARMED) {
        return agent->state == LG_AGENT_AWAKE;
    }
    if (!begin_change(agent, WAKE_TRIES)) {
        return false;                   /* another thread is at it: the next request asks again */
    }
    bool awake = agent->state == LG_AGENT_ARMED ? wake(agent) : agent->state == LG_AGENT_AWAKE;
    agent->changing = 0;
    if (agent->stop_wanted) {
        agent->stop_wanted = false;
        lg_agent_stop(agent, false);
        return false;
    }
    return awake;
}

/* Waking and stopping run Python code here and there, so the GIL may go to
 * another thread in the middle: one at a time. */
static bool
begin_change(struct lg_agent *agent, uint32_t tries)
{
    unsigned long me = PyThread_get_thread_ident();
    while (agent->changing != 0) {
        if (tries-- == 0 || agent->changing == me) {
            return false;
        }
        Py_BEGIN_ALLOW_THREADS
        usleep(100);
        Py_END_ALLOW_THREADS
    }
    agent->changing = me;
    return true;
}

static bool
wake(struct lg_agent *agent)
{
    if (agent->forked) {
        /* What the parent's tables led to is not in ours; here is the GIL, which
         * the fork handler did not have. */
        lg_route_clear(agent);
        lg_task_clear(agent);
        agent->forked = false;
    }
    if (find_asyncio(agent) < 0) {
        PyErr_Clear();
        lg_agent_off(agent, "asyncio cannot be imported");
        return false;
    }
    int err = open_segment(agent);
    if (err != 0) {
        lg_agent_off(agent, lg_strerror(err));
        return false;
    }
    agent->epoch++;
    /* Answers bear the ids: workers, and lives of one, begin at different ones. */
    agent->next_request_id =
        (uint32_t)((lg_now_ns() ^ (uint64_t)getpid() << 40) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    open_features(agent);
    end_with_multiprocessing(agent);
    agent->state = LG_AGENT_AWAKE;
    return true;
}

/* At the first loop, not at import: a process that only supervises others need
 * not load asyncio. */
static int
find_asyncio(struct lg_agent *agent)
{
    if (agent->task_class != NULL) {
        return 0;
    }
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    if (asyncio == NULL) {
        return -1;
    }
    agent->current_task = PyObject_GetAttrString(asyncio, "current_task");
    agent->get_running_loop = PyObject_GetAttrString(asyncio, "_get_running_loop");
    agent->task_class = PyObject_GetAttrString(asyncio, "Task");
    Py_DECREF(asyncio);
    return agent->task_class == NULL || agent->current_task == NULL ||
                   agent->get_running_loop == NULL
               ? -1
               : 0;
}

/* Its forked children end by os._exit() after its own finalizers: without this
 * a clean end would look like a crash. */
static void
end_with_multiprocessing(struct lg_agent *agent)
{
    if (agent->finalizer_pid == getpid()) {
        return;
    }
    PyObject *name = PyUnicode_FromString("multiprocessing.util");
    PyObject *util = name != NULL ? PyImport_GetModule(name) : NULL;
    if (util != NULL) {
        PyObject *done =
            PyObject_CallMethod(util, "Finalize", "OO()Oi", Py_None, agent->at_exit, Py_None, -100);
        Py_XDECREF(done);
        agent->finalizer_pid = getpid();
    }
    PyErr_Clear();
    Py_XDECREF(util);
    Py_XDECREF(name);
}

static int
open_segment(struct lg_agent *agent)
{
    const struct lg_settings *s = &agent->settings;
    const char *dir = s->segment_dir[0] != '\0' ? s->segment_dir : NULL;
    struct lg_segment_options options;
    memset(&options, 0, sizeof(options));
    options.dir = dir;
    options.mode = s->config.segment_mode;
    options.endpoints = s->config.max_endpoints;
    options.config = s->config;
    lg_text_set(options.proc.app, sizeof(options.proc.app), s->app);
    lg_text_set(options.proc.server, sizeof(options.proc.server), s->server);
    lg_text_set(options.proc.agent_version, sizeof(options.proc.agent_version), s->version);
    options.proc.python_version_hex = PY_VERSION_HEX;
    PyObject *prefix = PySys_GetObject("prefix");       /* borrowed */
    const char *text = prefix != NULL && PyUnicode_Check(prefix) ? PyUnicode_AsUTF8(prefix) : NULL;
    if (text != NULL) {
        lg_text_set(options.proc.prefix, sizeof(options.proc.prefix), text);
    }
    PyErr_Clear();
    (void)lg_segment_prune(dir, false);
    options.proc.worker_slot =
        lg_worker_slot(dir, (uint32_t)geteuid(), (uint32_t)getppid(), options.proc.app);
    int err = lg_record_open(&agent->rec, &options);
    if (err != 0) {
        return err;
    }
    agent->rec.seg.proc->worker_slot = options.proc.worker_slot;
    uint32_t n = agent->rec.seg.endpoint_count;
    agent->threshold_of = calloc(n, sizeof(*agent->threshold_of));
    agent->background_of = calloc(n, sizeof(*agent->background_of));
    agent->cumulative_of = calloc(n, sizeof(*agent->cumulative_of));
    if (agent->threshold_of == NULL || agent->background_of == NULL ||
        agent->cumulative_of == NULL || lg_pool_open(agent) != 0) {
        close_all(agent, false);
        return -ENOMEM;
    }
    return 0;
}

static void
open_features(struct lg_agent *agent)
{
    char reason[128] = "";
    lg_record_push(&agent->rec, LG_RING_EVENTS, lg_now_ns(), LG_REC_LIFECYCLE, 0, 0, LG_LIFE_START,
                   0, LG_NONE, 0, 0);
    for (int i = 0; i < LG_FEATURE_COUNT; i++) {
        if (agent->features[i].known) {         /* decided before there was a segment */
            lg_record_feature(&agent->rec, (uint32_t)i, feature_names[i], agent->features[i].on,
                              agent->features[i].reason);
        }
    }
    show_paused(agent);
    if (agent->pystack == NULL && lg_pystack_open(&agent->pystack) != 0) {
        agent->pystack = NULL;
    }
    const char *why = agent->pystack == NULL ? "out of memory" : lg_pystack_reason(agent->pystack);
    lg_agent_feature(agent, LG_FEATURE_STACKS, why[0] == '\0', why);

    if (!agent->settings.config.hooks) {
        lg_agent_feature(agent, LG_FEATURE_HOOKS, false, "switched off by the option hooks");
        lg_agent_feature(agent, LG_FEATURE_GIL_WAIT, false, "needs hooks");
        lg_agent_feature(agent, LG_FEATURE_ITERATIONS, false, "needs hooks");
    }
    else {
        int err = lg_hooks_install(reason, sizeof(reason));
        struct lg_hooks_status status;
        lg_hooks_status(&status);
        lg_agent_feature(agent, LG_FEATURE_HOOKS, err == 0, reason);
        lg_agent_feature(agent, LG_FEATURE_ITERATIONS, err == 0 && status.poll_slots > 0,
                         status.poll_slots > 0 ? "" : "no slot of epoll_wait was found");
        uint64_t lo = 0;
        uint64_t hi = 0;
        bool gil = err == 0 && agent->pystack != NULL &&
                   lg_pystack_gil_range(agent->pystack, &lo, &hi) == 0;
        lg_hooks_set_gil_range((uintptr_t)lo, (uintptr_t)hi);
        lg_agent_feature(agent, LG_FEATURE_GIL_WAIT, gil,
                         gil || agent->pystack == NULL ? ""
                                                       : lg_pystack_gil_reason(agent->pystack));
    }
    lg_collect_install(agent);
    lg_tasks_seen_open(agent);
    int err = lg_watchdog_start(agent);
    lg_agent_feature(agent, LG_FEATURE_WATCHDOG, err == 0, err == 0 ? "" : lg_strerror(err));
}

bool
lg_agent_has_edges(const struct lg_agent *agent)
{
    return agent->features[LG_FEATURE_HOOKS].on && agent->features[LG_FEATURE_ITERATIONS].on;
}

void
lg_agent_feature(struct lg_agent *agent, enum lg_feature_index index, bool on, const char *reason)
{
    struct lg_feature_note *note = &agent->features[index];
    if (note->known && note->on == on && strncmp(note->reason, reason, 39) == 0) {
        return;
    }
    note->known = true;
    note->on = on;
    lg_text_set(note->reason, sizeof(note->reason), reason);
    lg_record_feature(&agent->rec, (uint32_t)index, feature_names[index], on, reason);
}

/* ---- endpoints --------------------------------------------------------- */

int
lg_agent_endpoint(struct lg_agent *agent, enum lg_endpoint_kind kind, enum lg_method method,
                  const char *name, size_t length, uint64_t now_ns)
{
    int endpoint = lg_record_endpoint(&agent->rec, kind, method, name, length, now_ns, LG_TRY);
    if (endpoint > 0 && agent->threshold_of[endpoint] == 0 && agent->endpoint_thresholds != NULL &&
        PyDict_GET_SIZE(agent->endpoint_thresholds) > 0) {
        uint64_t ns = threshold_set(agent, kind, method, name, length);
        lg_store_relaxed(&agent->threshold_of[endpoint], ns);
        uint64_t *word = &agent->rec.seg.endpoints[endpoint].in_flight_threshold_us;
        lg_store_relaxed(word, LG_PAIR(LG_LO(lg_load_relaxed(word)), ns / LG_NS_PER_US));
    }
    return endpoint;
}

uint64_t
lg_agent_set_threshold(struct lg_agent *agent, uint64_t ns)
{
    struct lg_config_info *config = &agent->settings.config;
    uint64_t before = config->threshold_ns;
    bool along = config->iteration_threshold_ns == before;
    lg_store_relaxed(&config->threshold_ns, ns);
    if (along) {
        lg_store_relaxed(&config->iteration_threshold_ns, ns);
    }
    for (int i = 0; i < LG_LOOPS; i++) {
        if (agent->loops[i].used == LG_LOOP_USED) {
            lg_loop_set_threshold(&agent->loops[i], ns, along);
        }
    }
    return before;
}

/* What the user set for "POST /reports/{id}"; 0 = nothing. */
static uint64_t
threshold_set(struct lg_agent *agent, enum lg_endpoint_kind kind, enum lg_method method,
              const char *name, size_t length)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    const char *verb =
        kind == LG_KIND_REQUEST || kind == LG_KIND_WEBSOCKET ? method_names[method] : "";
    /* "%.*s" came to PyUnicode_FromFormat() with 3.12 only. */
    PyObject *text = PyUnicode_FromStringAndSize(name, (Py_ssize_t)length);
    PyObject *key = text == NULL || verb[0] == '\0' ? Py_XNewRef(text)
                                                    : PyUnicode_FromFormat("%s %U", verb, text);
    PyObject *value = key != NULL ? PyDict_GetItemWithError(agent->endpoint_thresholds, key) : NULL;
    uint64_t ns = value != NULL ? PyLong_AsUnsignedLongLong(value) : 0;
    if (PyErr_Occurred()) {
        ns = 0;
    }
    Py_XDECREF(key);
    Py_XDECREF(text);
    PyErr_Clear();
    lg_pending_restore(&pending);
    return ns;
}

uint32_t
lg_agent_background(struct lg_agent *agent, uint32_t endpoint, uint64_t now_ns)
{
    if (agent->background_of[endpoint] == 0) {
        int twin = lg_record_twin(&agent->rec, endpoint, LG_KIND_BACKGROUND, now_ns, LG_TRY);
        if (twin <= 0) {
            return endpoint;            /* table in use or full: it stays the request's */
        }
        agent->background_of[endpoint] = (uint16_t)twin;
    }
    return agent->background_of[endpoint];
}

/* ---- off and stop ------------------------------------------------------ */

void
lg_agent_off(struct lg_agent *agent, const char *reason)
{
    if (agent->state == LG_AGENT_AWAKE) {
        close_all(agent, false);
    }
    agent->state = LG_AGENT_OFF;
    lg_text_set(agent->off_reason, sizeof(agent->off_reason), reason);
    if (agent->off_fd < 0) {
        struct lg_proc_info proc;
        memset(&proc, 0, sizeof(proc));
        lg_text_set(proc.app, sizeof(proc.app), agent->settings.app);
        lg_text_set(proc.server, sizeof(proc.server), agent->settings.server);
        lg_text_set(proc.agent_version, sizeof(proc.agent_version), agent->settings.version);
        proc.python_version_hex = PY_VERSION_HEX;
        agent->off_fd = lg_segment_off_note(&proc, reason);
    }
    char line[192];
    snprintf(line, sizeof(line), "loopguard is off: %s", reason);
    log_line(line);
}

void
lg_agent_stop(struct lg_agent *agent, bool at_exit)
{
    if (!begin_change(agent, UINT32_MAX)) {
        agent->stop_wanted = true;      /* a signal handler's wish, say: done at the end */
        return;
    }
    if (agent->state == LG_AGENT_AWAKE) {
        uint64_t now = lg_now_ns();
        lg_record_push(&agent->rec, LG_RING_EVENTS, now, LG_REC_LIFECYCLE, 0, 0, LG_LIFE_CLEAN_EXIT,
                       at_exit, LG_NONE, 0, 0);
        lg_store32_release(&agent->rec.seg.header->state, LG_STATE_EXITING);
        close_all(agent, agent->settings.config.keep_segment == 2);
    }
    if (agent->off_fd >= 0) {
        close(agent->off_fd);
        agent->off_fd = -1;
    }
    agent->state = LG_AGENT_IDLE;
    agent->paused = false;
    lg_store_relaxed(&agent->paused_ns, LG_NONE);
    memset(agent->features, 0, sizeof(agent->features));
    agent->changing = 0;
}

/* In the order in which nothing is used after it is gone: first nobody comes
 * in any more, then the watchdog ends, then the memory goes. */
static void
close_all(struct lg_agent *agent, bool keep)
{
    struct lg_loop *own = lg_loop_current();
    bool foreign = false;
    uint32_t endpoints = agent->rec.seg.endpoint_count;
    agent->state = LG_AGENT_IDLE;
    agent->epoch++;
    lg_slice_stop(agent);
    for (int i = 0; i < LG_LOOPS; i++) {
        if (agent->loops[i].used == LG_LOOP_USED) {
            bool comes_by = &agent->loops[i] != own && lg_loop_has_thread(&agent->loops[i]);
            foreign = foreign || comes_by;
            PyObject *py_loop = lg_loop_object(&agent->loops[i]);
            if (py_loop != NULL) {
                lg_task_uninstall(agent, py_loop);
                lg_select_uninstall(agent, py_loop);
                Py_DECREF(py_loop);
            }
            lg_loop_close(&agent->loops[i]);
            if (comes_by) {
                agent->loops[i].used = LG_LOOP_RETIRED;
            }
        }
    }
    lg_collect_uninstall(agent);
    lg_hooks_uninstall();
    lg_watchdog_stop(agent);
    lg_pool_close(agent);
    lg_route_clear(agent);
    lg_task_clear(agent);
    if (foreign) {
        lg_record_leave(&agent->rec, keep);
    }
    else {
        lg_record_close(&agent->rec, keep);
    }
    for (int i = 0; i < LG_LOOPS; i++) {
        if (agent->loops[i].used != LG_LOOP_RETIRED) {
            free(agent->loops[i].notes.slot);
            lg_threshold_close(agent->loops[i].threshold);
            memset(&agent->loops[i], 0, sizeof(agent->loops[i]));
        }
    }
    for (uint32_t i = 0; agent->cumulative_of != NULL && i < endpoints; i++) {
        free(agent->cumulative_of[i]);
    }
    agent->loops_used = 0;
    free(agent->threshold_of);
    agent->threshold_of = NULL;
    free(agent->background_of);
    agent->background_of = NULL;
    free(agent->cumulative_of);
    agent->cumulative_of = NULL;
    lg_owner_trim(agent);
    lg_cuts_trim(agent);
    Py_CLEAR(agent->all_tasks);
}

/* ---- paused ------------------------------------------------------------ */

bool
lg_agent_pause(struct lg_agent *agent, bool paused)
{
    bool was = agent->paused;
    if (was == paused) {
        return was;
    }
    agent->paused = paused;
    if (paused) {
        lg_store_relaxed(&agent->paused_ns, lg_now_ns());
        lg_store_relaxed(&agent->resumed_ns, LG_NONE);
    }
    else {
        lg_store_relaxed(&agent->resumed_ns, lg_now_ns());
    }
    if (agent->state == LG_AGENT_AWAKE) {
        show_paused(agent);
    }
    return was;
}

static void
show_paused(struct lg_agent *agent)
{
    lg_agent_feature(agent, LG_FEATURE_STEPS, !agent->paused, agent->paused ? "paused" : "");
}

/* ---- fork -------------------------------------------------------------- */

/* The child of a fork has one thread, ours, and copies of the parent's memory
 * and descriptors. It writes to none of them; it is armed anew and makes its
 * own segment when a loop first runs in it. */
void
lg_agent_forked(struct lg_agent *agent)
{
    agent->changing = 0;                /* that thread is not here */
    if (agent->state != LG_AGENT_AWAKE) {
        return;
    }
    lg_calls_attach(NULL);
    lg_slice_forked(agent);
    for (int i = 0; i < LG_LOOPS; i++) {
        struct lg_loop *loop = &agent->loops[i];
        if (loop->used == LG_LOOP_USED) {
            lg_meter_close(&loop->meter);       /* a slot never used has descriptor 0 */
        }
        free(loop->notes.slot);
        lg_threshold_close(loop->threshold);
        /* The weak references and the rest belong to the interpreter, which
         * is not ours to call here: they are let go of by being forgotten. */
        memset(loop, 0, sizeof(*loop));
    }
    if (agent->walker != NULL) {
        lg_pystack_walker_after_fork(agent->walker);
    }
    lg_watchdog_forget(agent);
    lg_pool_close(agent);
    lg_record_forget(&agent->rec);
    agent->loops_used = 0;
    free(agent->threshold_of);
    agent->threshold_of = NULL;
    free(agent->background_of);
    agent->background_of = NULL;
    free(agent->cumulative_of);
    agent->cumulative_of = NULL;
    agent->gc_start_ns = 0;
    agent->epoch++;
    agent->forked = true;
    agent->state = LG_AGENT_ARMED;
}

static void
log_line(const char *text)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *logging = PyImport_ImportModule("logging");
    PyObject *logger =
        logging != NULL ? PyObject_CallMethod(logging, "getLogger", "s", "loopguard") : NULL;
    PyObject *done = logger != NULL ? PyObject_CallMethod(logger, "warning", "s", text) : NULL;
    Py_XDECREF(done);
    Py_XDECREF(logger);
    Py_XDECREF(logging);
    PyErr_Clear();                      /* a broken log handler must not stop a worker */
    lg_pending_restore(&pending);
}

/* ---- status ------------------------------------------------------------ */

uint64_t
lg_agent_activity(const struct lg_agent *agent)
{
    uint64_t sum = 0;
    for (int i = 0; i < LG_LOOPS; i++) {
        sum += agent->loops[i].step_number + agent->loops[i].iteration;
    }
    return sum;
}

PyObject *
lg_agent_status(struct lg_agent *agent)
{
    static const char *const states[] = {"stopped", "armed", "running", "off"};
    PyObject *features = PyDict_New();
    PyObject *counters = PyDict_New();
    PyObject *hooks = PyDict_New();
    PyObject *result = NULL;
    if (features == NULL || counters == NULL || hooks == NULL) {
        goto done;
    }
    for (int i = 0; i < LG_FEATURE_COUNT; i++) {
        if (!agent->features[i].known) {
            continue;
        }
        PyObject *one = Py_BuildValue("{s:O,s:s}", "on", agent->features[i].on ? Py_True : Py_False,
                                      "reason", agent->features[i].reason);
        if (one == NULL || PyDict_SetItemString(features, feature_names[i], one) < 0) {
            Py_XDECREF(one);
            goto done;
        }
        Py_DECREF(one);
    }
    bool awake = agent->state == LG_AGENT_AWAKE;
    if (awake) {
        const struct lg_self *self = agent->rec.seg.self;
#define LG_X(field, what) \
    if (add_number(counters, #field, lg_load_relaxed(&self->field)) < 0) { \
        goto done; \
    }
        LG_SELF_COUNTERS(LG_X)
#undef LG_X
        struct lg_hooks_status h;
        lg_hooks_status(&h);
        if (add_number(hooks, "functions", h.functions) < 0 ||
            add_number(hooks, "objects", h.objects) < 0 ||
            add_number(hooks, "slots", h.slots) < 0 ||
            add_number(hooks, "foreign", h.foreign) < 0 ||
            add_number(hooks, "refused", h.refused) < 0) {
            goto done;
        }
    }
    result = Py_BuildValue("{s:s,s:z,s:O,s:z,s:O,s:O,s:O}", "state", states[agent->state], "reason",
                           agent->state == LG_AGENT_OFF ? agent->off_reason : NULL, "paused",
                           agent->paused ? Py_True : Py_False, "segment",
                           awake ? agent->rec.seg.path : NULL, "features", features, "counters",
                           counters, "hooks", hooks);
done:
    Py_XDECREF(features);
    Py_XDECREF(counters);
    Py_XDECREF(hooks);
    return result;
}

static int
add_number(PyObject *dict, const char *name, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    if (number == NULL) {
        return -1;
    }
    int err = PyDict_SetItemString(dict, name, number);
    Py_DECREF(number);
    return err;
}
