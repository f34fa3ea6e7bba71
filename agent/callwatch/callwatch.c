/*
 * callwatch.c - the type CallWatch: watchers, verdicts, threads, and what is
 * told of a call that took long.
 *
 * Under the GIL, but for thread_ends(): it only marks its thread's record,
 * which is freed under the GIL later.
 */
#define PY_SSIZE_T_CLEAN
#include "callwatch.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/lg_atomic.h"
#include "../pycompat.h"

static void thread_ends(void *thread);
static bool is_trivial(const struct lg_callwatch *watch, PyObject *code);
static bool try_extra(struct lg_callwatch *watch);
static void free_gone_threads(struct lg_callwatch *watch);
static struct lg_watcher *find_watcher(struct lg_callwatch *watch, uint64_t id);
static void tell_one(struct lg_callwatch *watch, struct lg_callwatch_thread *thread,
                     const struct lg_ended *ended, uint64_t id);
static void new_lowest(struct lg_callwatch *watch);

/* ---- threads ----------------------------------------------------------- */

struct lg_callwatch_thread *
lg_callwatch_new_thread(struct lg_callwatch *watch)
{
    free_gone_threads(watch);
    struct lg_callwatch_thread *thread = calloc(1, sizeof(*thread));
    if (thread == NULL || pthread_setspecific(watch->key, thread) != 0) {
        free(thread);
        return NULL;
    }
    thread->next = watch->threads;
    watch->threads = thread;
    return thread;
}

/* When the thread ends, without the GIL. */
static void
thread_ends(void *thread)
{
    lg_store_release(&((struct lg_callwatch_thread *)thread)->gone, 1);
}

static void
free_gone_threads(struct lg_callwatch *watch)
{
    struct lg_callwatch_thread **link = &watch->threads;
    while (*link != NULL) {
        struct lg_callwatch_thread *thread = *link;
        /* Its last store is behind us: pairs with thread_ends(). */
        if (lg_load_acquire(&thread->gone) == 0) {
            link = &thread->next;
            continue;
        }
        *link = thread->next;
        lg_shadow_fini(&thread->shadow);
        free(thread);
    }
}

/* ---- verdicts ---------------------------------------------------------- */

uint32_t
lg_callwatch_judge(struct lg_callwatch *watch, PyObject *code)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *globals = PyEval_GetGlobals();            /* borrowed; of the running frame */
    PyObject *name = globals != NULL ? PyDict_GetItemString(globals, "__name__") : NULL;
    PyObject *answer =
        PyObject_CallFunctionObjArgs(watch->judge, code, name != NULL ? name : Py_None, NULL);
    uint32_t verdict = answer != NULL ? (uint32_t)PyLong_AsUnsignedLong(answer) : 0;
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(watch->judge);
        verdict = 0;
    }
    Py_XDECREF(answer);
    if (is_trivial(watch, code)) {
        verdict |= LG_VERDICT_TRIVIAL;
    }
    uint64_t kept = (uint64_t)watch->generation << 32 | verdict;
    if (PyUnstable_Code_SetExtra(code, watch->extra, (void *)(uintptr_t)kept) < 0) {
        PyErr_Clear();                  /* asked again next time */
    }
    lg_pending_restore(&pending);
    return verdict;
}

#if LG_HAVE_MONITORING
/* Attributes count as nothing: a slow property is a function of its own. */
static bool
is_trivial(const struct lg_callwatch *watch, PyObject *code)
{
    char *bytes;
    Py_ssize_t size;
    PyObject *text = PyCode_GetCode((PyCodeObject *)code);     /* without instrumentation */
    if (text == NULL || PyBytes_AsStringAndSize(text, &bytes, &size) < 0) {
        Py_XDECREF(text);
        PyErr_Clear();
        return false;
    }
    bool is = true;
    for (Py_ssize_t i = 0; i < size && is; i += 2) {    /* opcode, argument */
        is = watch->opcodes[(uint8_t)bytes[i]] == LG_OPCODE_PLAIN;
    }
    Py_DECREF(text);
    return is;
}
#else
/* No event can be switched off here, and a look costs as much as the time. */
static bool
is_trivial(const struct lg_callwatch *watch, PyObject *code)
{
    (void)watch;
    (void)code;
    return false;
}
#endif

/* Do code objects keep what they are given where we would look for it? */
static bool
try_extra(struct lg_callwatch *watch)
{
    PyCodeObject *code = PyCode_NewEmpty("<loopguard>", "try", 1);
    if (code == NULL) {
        PyErr_Clear();
        return false;
    }
    void *value = watch;
    watch->extra_direct = true;
    bool right = lg_callwatch_kept(watch, (PyObject *)code) == NULL &&
                 PyUnstable_Code_SetExtra((PyObject *)code, watch->extra, value) == 0 &&
                 ((const struct lg_code_extra *)code->co_extra)->count > watch->extra &&
                 ((const struct lg_code_extra *)code->co_extra)->count < 256 &&
                 lg_callwatch_kept(watch, (PyObject *)code) == value;
    Py_DECREF(code);
    PyErr_Clear();
    return right;
}

/* ---- telling ----------------------------------------------------------- */

void
lg_callwatch_ended(struct lg_callwatch *watch, struct lg_callwatch_thread *thread,
                   const struct lg_ended *ended)
{
    if (thread->telling) {
        return;                         /* the callback's own blocks are not the application's */
    }
    uint32_t count = watch->watcher_count;
    uint64_t *ids = malloc((count > 0 ? count : 1) * sizeof(*ids));
    if (ids == NULL) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = watch->watchers[i].id; /* a callback may add and remove watchers */
    }
    thread->telling = true;
    struct lg_pending pending;
    lg_pending_save(&pending);
    for (uint32_t i = 0; i < count; i++) {
        tell_one(watch, thread, ended, ids[i]);
    }
    uint64_t callbacks = lg_ticks_now(&watch->ticks) - ended->now;
    for (uint32_t i = 0; i < watch->watcher_count; i++) {
        lg_shadow_tell(&thread->shadow, watch->watchers[i].id, ended->now, callbacks);
    }
    lg_pending_restore(&pending);
    thread->telling = false;
    free(ids);
}

static void
tell_one(struct lg_callwatch *watch, struct lg_callwatch_thread *thread,
         const struct lg_ended *ended, uint64_t id)
{
    struct lg_watcher *w = find_watcher(watch, id);
    if (w == NULL || (lg_callwatch_verdict(watch, ended->code) & w->filter) == 0) {
        return;
    }
    uint64_t start = ended->entry.start > w->since ? ended->entry.start : w->since;
    uint64_t total = ended->now > start ? ended->now - start : 0;
    if (total < w->threshold) {
        return;
    }
    uint64_t own = total - lg_shadow_told_since(&thread->shadow, id, start);
    if (own < w->threshold || own > total) {
        return;
    }
    PyObject *globals = PyEval_GetGlobals();            /* borrowed */
    PyObject *target = Py_NewRef(w->target);
    PyObject *answer = PyObject_CallFunction(target, "OOOOid", ended->frame, ended->code,
                                             ended->callable != NULL ? ended->callable : Py_None,
                                             globals != NULL ? globals : Py_None, ended->line,
                                             lg_ticks_to_ms(&watch->ticks, own));
    int told = answer != NULL ? PyObject_IsTrue(answer) : -1;
    if (told < 0) {
        PyErr_WriteUnraisable(target);
    }
    Py_XDECREF(answer);
    Py_DECREF(target);
    if (told > 0 && find_watcher(watch, id) != NULL) {
        lg_shadow_tell(&thread->shadow, id, start, total);
    }
}

/* ---- methods ----------------------------------------------------------- */

static struct lg_watcher *
find_watcher(struct lg_callwatch *watch, uint64_t id)
{
    for (uint32_t i = 0; i < watch->watcher_count; i++) {
        if (watch->watchers[i].id == id) {
            return &watch->watchers[i];
        }
    }
    return NULL;
}

static void
new_lowest(struct lg_callwatch *watch)
{
    watch->threshold = UINT64_MAX;
    watch->wanted = 0;
    for (uint32_t i = 0; i < watch->watcher_count; i++) {
        const struct lg_watcher *w = &watch->watchers[i];
        watch->wanted |= w->filter;
        watch->threshold = w->threshold < watch->threshold ? w->threshold : watch->threshold;
    }
}

static PyObject *
watch_add(struct lg_callwatch *self, PyObject *args)
{
    PyObject *target;
    double threshold_ms;
    unsigned int slot;
    if (!PyArg_ParseTuple(args, "OdI:add", &target, &threshold_ms, &slot)) {
        return NULL;
    }
    if (slot >= LG_FILTERS) {
        return PyErr_Format(PyExc_ValueError, "slot must be below %d, not %u", LG_FILTERS, slot);
    }
    if (self->watcher_count == self->watcher_capacity) {
        uint32_t wanted = self->watcher_capacity == 0 ? 4 : self->watcher_capacity * 2;
        void *bigger = realloc(self->watchers, wanted * sizeof(*self->watchers));
        if (bigger == NULL) {
            return PyErr_NoMemory();
        }
        self->watchers = bigger;
        self->watcher_capacity = wanted;
    }
    self->watchers[self->watcher_count++] = (struct lg_watcher){
        .id = ++self->last_id,
        .threshold = (uint64_t)(threshold_ms * 1e6 / self->ticks.ns_per_tick),
        .since = lg_ticks_now(&self->ticks),
        .filter = UINT32_C(1) << slot,
        .target = Py_NewRef(target),
    };
    new_lowest(self);
    return PyLong_FromUnsignedLongLong(self->last_id);
}

static PyObject *
watch_remove(struct lg_callwatch *self, PyObject *arg)
{
    uint64_t id = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
    struct lg_watcher *w = find_watcher(self, id);
    if (w != NULL) {
        PyObject *target = w->target;
        *w = self->watchers[--self->watcher_count];
        new_lowest(self);
        for (struct lg_callwatch_thread *t = self->threads; t != NULL; t = t->next) {
            lg_shadow_forget(&t->shadow, id);
            if (self->watcher_count == 0) {
                t->shadow.depth = 0;    /* no exits will come */
            }
        }
        free_gone_threads(self);
        Py_DECREF(target);
    }
    Py_RETURN_NONE;
}

/* The frames that run already, outermost first. */
static PyObject *
watch_enter(struct lg_callwatch *self, PyObject *codes)
{
    struct lg_callwatch_thread *thread = lg_callwatch_thread(self);
    PyObject *list = PySequence_Fast(codes, "codes must be a sequence");
    if (thread != NULL && list != NULL && thread->shadow.depth == 0) {
        uint64_t now = lg_ticks_now(&self->ticks);
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++) {
            lg_shadow_push(&thread->shadow, LG_SHADOW_UNKNOWN, PySequence_Fast_GET_ITEM(list, i),
                           now);
        }
    }
    Py_XDECREF(list);
    return list != NULL ? Py_NewRef(Py_None) : NULL;
}

/* The frames that run still, innermost first: those with time of their own
 * over the watcher's threshold, as (index, ms). */
static PyObject *
watch_flush(struct lg_callwatch *self, PyObject *args)
{
    unsigned long long id;
    PyObject *codes;
    if (!PyArg_ParseTuple(args, "KO!:flush", &id, &PyTuple_Type, &codes)) {
        return NULL;
    }
    PyObject *found = PyList_New(0);
    struct lg_callwatch_thread *thread = lg_callwatch_thread(self);
    struct lg_watcher *w = find_watcher(self, id);
    if (found == NULL || thread == NULL || w == NULL) {
        return found;
    }
    uint64_t now = lg_ticks_now(&self->ticks);
    Py_ssize_t next = 0;
    for (uint32_t i = thread->shadow.depth; i-- > 0;) {
        const struct lg_shadow_entry *e = &thread->shadow.entries[i];
        Py_ssize_t at = next;
        while (at < PyTuple_GET_SIZE(codes) && PyTuple_GET_ITEM(codes, at) != e->code) {
            at++;
        }
        if (e->frame & LG_SHADOW_C || at == PyTuple_GET_SIZE(codes)) {
            break;                      /* from here on it is the loop's caller */
        }
        next = at + 1;
        uint64_t start = e->start > w->since ? e->start : w->since;
        uint64_t total = now > start ? now - start : 0;
        uint64_t own = total - lg_shadow_told_since(&thread->shadow, id, start);
        if (own < w->threshold || own > total) {
            continue;
        }
        PyObject *item = Py_BuildValue("nd", at, lg_ticks_to_ms(&self->ticks, own));
        if (item == NULL || PyList_Append(found, item) < 0) {
            Py_XDECREF(item);
            Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(item);
        lg_shadow_tell(&thread->shadow, id, start, total);
    }
    return found;
}

/* C functions that never take long; a class with Python's __call__, __init__
 * and __new__ shows what those slots look like; the cost of each opcode. */
static PyObject *
watch_learn(struct lg_callwatch *self, PyObject *args)
{
    PyObject *callables, *example;
    const char *opcodes;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "OO!y#:learn", &callables, &PyType_Type, &example, &opcodes,
                          &count)) {
        return NULL;
    }
    if (count != sizeof(self->opcodes)) {
        return PyErr_Format(PyExc_ValueError, "opcodes must be 256 bytes, not %zd", count);
    }
    memcpy(self->opcodes, opcodes, sizeof(self->opcodes));
    const PyTypeObject *type = (PyTypeObject *)example;
    self->slot_call = type->tp_call;
    self->slot_init = type->tp_init;
    self->slot_new = type->tp_new;
    PyObject *list = PySequence_Fast(callables, "callables must be a sequence");
    if (list == NULL) {
        return NULL;
    }
    long added = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++) {
        added += lg_cheap_add(&self->cheap, PySequence_Fast_GET_ITEM(list, i));
    }
    Py_DECREF(list);
    return PyLong_FromLong(added);
}

/* The judge is asked anew; filters in `changed` want to see for themselves
 * what was put to sleep. */
static PyObject *
watch_new_verdicts(struct lg_callwatch *self, PyObject *changed)
{
    unsigned long filters = PyLong_AsUnsignedLong(changed);
    if (PyErr_Occurred()) {
        return NULL;
    }
    self->generation++;
    self->asleep &= ~(uint32_t)filters;
    Py_RETURN_NONE;
}

/* Does somebody want what was put to sleep when he was not there? */
static PyObject *
watch_wakes(struct lg_callwatch *self, PyObject *unused)
{
    (void)unused;
    bool wakes = (self->wanted & ~self->asleep) != 0;
    if (wakes) {
        self->asleep = UINT32_MAX;
    }
    return PyBool_FromLong(wakes);
}

/* In a forked child: its one thread is the one that forked. */
static PyObject *
watch_forked(struct lg_callwatch *self, PyObject *unused)
{
    (void)unused;
    const struct lg_callwatch_thread *here = pthread_getspecific(self->key);
    for (struct lg_callwatch_thread *t = self->threads; t != NULL; t = t->next) {
        if (t != here) {
            lg_store_release(&t->gone, 1);
        }
    }
    free_gone_threads(self);
    Py_RETURN_NONE;
}

#if LG_HAVE_MONITORING
static PyObject *
watch_callbacks(struct lg_callwatch *self, PyObject *disable)
{
    Py_XSETREF(self->disable, Py_NewRef(disable));
    return lg_callwatch_callbacks(self, self->callback_type);
}
#else
static PyObject *
number_or_error(int number)
{
    return number >= 0 ? PyLong_FromLong(number) : NULL;
}

static PyObject *
watch_profile(struct lg_callwatch *self, PyObject *on)
{
    return number_or_error(PyObject_IsTrue(on) ? lg_callwatch_profile_start(self)
                                               : lg_callwatch_profile_stop(self));
}

static PyObject *
watch_profile_here(struct lg_callwatch *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    return number_or_error(lg_callwatch_profile_here(self));
}
#endif

/* ---- type -------------------------------------------------------------- */

static PyObject *
watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *judge;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O:CallWatch", &judge)) {
        return NULL;
    }
    struct lg_callwatch *self = (struct lg_callwatch *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->judge = Py_NewRef(judge);
    self->generation = 1;
    self->asleep = UINT32_MAX;
    new_lowest(self);
    lg_ticks_init(&self->ticks);
    self->extra = PyUnstable_Eval_RequestCodeExtraIndex(NULL);
    self->has_key = pthread_key_create(&self->key, thread_ends) == 0;
    if (self->extra < 0 || !self->has_key) {
        PyErr_SetString(PyExc_RuntimeError,
                        "no index for verdicts in code objects, or no key for threads, is left");
        Py_DECREF(self);
        return NULL;
    }
    self->extra_direct = try_extra(self);
#if LG_HAVE_MONITORING
    self->callback_type = lg_callwatch_new_callback_type(PyType_GetModule(type));
    if (self->callback_type == NULL) {
        Py_DECREF(self);
        return NULL;
    }
#endif
    return (PyObject *)self;
}

static int
watch_traverse(struct lg_callwatch *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->judge);
    Py_VISIT(self->disable);
    Py_VISIT(self->callback_type);
    for (uint32_t i = 0; i < self->watcher_count; i++) {
        Py_VISIT(self->watchers[i].target);
    }
    return 0;
}

static int
watch_clear(struct lg_callwatch *self)
{
    while (self->watcher_count > 0) {
        PyObject *target = self->watchers[--self->watcher_count].target;
        Py_DECREF(target);
    }
    new_lowest(self);
    Py_CLEAR(self->judge);
    Py_CLEAR(self->disable);
    Py_CLEAR(self->callback_type);
    return 0;
}

static void
watch_dealloc(struct lg_callwatch *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)watch_clear(self);
    if (self->has_key) {
        (void)pthread_key_delete(self->key);            /* thread_ends() comes no more */
    }
    for (struct lg_callwatch_thread *t = self->threads; t != NULL; t = t->next) {
        t->gone = 1;
    }
    free_gone_threads(self);
    free(self->watchers);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef watch_methods[] = {
    {"add", (PyCFunction)(void *)watch_add, METH_VARARGS,
     PyDoc_STR("add(target, threshold_ms, slot) -> id of a new watcher")},
    {"remove", (PyCFunction)(void *)watch_remove, METH_O, PyDoc_STR("remove(id) -> None")},
    {"enter", (PyCFunction)(void *)watch_enter, METH_O,
     PyDoc_STR("enter(codes) -> None. They run already, outermost first.")},
    {"flush", (PyCFunction)(void *)watch_flush, METH_VARARGS,
     PyDoc_STR("flush(id, codes) -> [(index, ms)] of those that took long so far")},
    {"learn", (PyCFunction)(void *)watch_learn, METH_VARARGS,
     PyDoc_STR("learn(cheap, example, opcodes) -> how many of `cheap` can be told")},
    {"new_verdicts", (PyCFunction)(void *)watch_new_verdicts, METH_O,
     PyDoc_STR("new_verdicts(changed) -> None. The judge is asked anew.")},
    {"wakes", (PyCFunction)(void *)watch_wakes, METH_NOARGS,
     PyDoc_STR("wakes() -> is something disabled that is now wanted? It is asked once.")},
    {"forked", (PyCFunction)(void *)watch_forked, METH_NOARGS, PyDoc_STR("forked() -> None")},
#if LG_HAVE_MONITORING
    {"callbacks", (PyCFunction)(void *)watch_callbacks, METH_O,
     PyDoc_STR("callbacks(DISABLE) -> {event: callback} for sys.monitoring")},
#else
    {"profile", (PyCFunction)(void *)watch_profile, METH_O,
     PyDoc_STR("profile(on) -> on how many threads somebody else profiles")},
    {"profile_here", (PyCFunction)(void *)watch_profile_here, METH_FASTCALL,
     PyDoc_STR("profile_here(*args) -> the same on this thread alone")},
#endif
    {NULL, NULL, 0, NULL},
};

static PyType_Slot watch_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("CallWatch(judge): times calls, tells of the long ones.")},
    {Py_tp_new, watch_new},
    {Py_tp_dealloc, watch_dealloc},
    {Py_tp_traverse, watch_traverse},
    {Py_tp_clear, watch_clear},
    {Py_tp_methods, watch_methods},
    {0, NULL},
};

static PyType_Spec watch_spec = {
    .name = "loopguard._agent.CallWatch",
    .basicsize = sizeof(struct lg_callwatch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = watch_slots,
};

int
lg_callwatch_add_types(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &watch_spec, NULL);
    int err = type != NULL ? PyModule_AddObjectRef(module, "CallWatch", type) : -1;
    Py_XDECREF(type);
    return err;
}
