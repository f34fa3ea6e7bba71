/*
 * callwatch_profile.c - calls by the profile function of each thread, before
 * Python 3.12.
 *
 * Events come for every Python frame that is entered or left, a suspension
 * being a leave, and around calls of built-in functions (not of types). Under
 * the GIL, on the thread itself. What stood there before us is kept and put
 * back; where somebody else takes our place meanwhile, it is his.
 */
#include "callwatch.h"

#if !LG_HAVE_MONITORING

#include <frameobject.h>
#include <stdlib.h>

#include "../pycompat.h"

/* What stood in a thread's place before us. */
struct lg_saved_profile {
    uint64_t thread;                    /* its state's id: never used twice */
    Py_tracefunc function;
    PyObject *object;                   /* strong, or NULL */
};

static PyObject *
frame_code(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    Py_DECREF(code);                    /* the frame holds it */
    return (PyObject *)code;
}

static void
entered(struct lg_callwatch *watch, PyFrameObject *frame)
{
    PyObject *code = frame_code(frame);
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread != NULL && lg_callwatch_verdict(watch, code) != 0) {
        lg_shadow_push(&thread->shadow, (uintptr_t)frame, code, lg_ticks_now(&watch->ticks));
    }
}

static void
left(struct lg_callwatch *watch, PyFrameObject *frame)
{
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread == NULL || thread->shadow.depth == 0) {
        return;
    }
    struct lg_shadow_entry entry;
    if (lg_shadow_on_top(&thread->shadow, (uintptr_t)frame)) {
        entry = thread->shadow.entries[--thread->shadow.depth];
    }
    else {
        PyObject *code = frame_code(frame);
        if (lg_callwatch_verdict(watch, code) == 0 ||
            !lg_shadow_leave(&thread->shadow, (uintptr_t)frame, code, &entry)) {
            return;
        }
    }
    uint64_t now = lg_ticks_now(&watch->ticks);
    if (now - entry.start >= watch->threshold) {
        PyObject *code = frame_code(frame);
        struct lg_ended e = {.entry = entry,
                             .now = now,
                             .frame = (PyObject *)frame,
                             .code = code,
                             .line = ((PyCodeObject *)code)->co_firstlineno};
        lg_callwatch_ended(watch, thread, &e);
    }
}

static void
c_entered(struct lg_callwatch *watch, PyFrameObject *frame, PyObject *callable)
{
    if (lg_cheap_has(&watch->cheap, callable)) {
        return;
    }
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread == NULL) {
        return;
    }
    if (lg_shadow_on_top(&thread->shadow, (uintptr_t)frame) ||
        lg_callwatch_verdict(watch, frame_code(frame)) != 0) {
        lg_shadow_push(&thread->shadow, (uintptr_t)frame | LG_SHADOW_C, NULL,
                       lg_ticks_now(&watch->ticks));
    }
}

static void
c_left(struct lg_callwatch *watch, PyFrameObject *frame, PyObject *callable)
{
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread == NULL || thread->shadow.depth == 0) {
        return;
    }
    struct lg_shadow_entry entry;
    if (lg_shadow_on_top(&thread->shadow, (uintptr_t)frame | LG_SHADOW_C)) {
        entry = thread->shadow.entries[--thread->shadow.depth];
    }
    else if (lg_shadow_on_top(&thread->shadow, (uintptr_t)frame) ||
             lg_cheap_has(&watch->cheap, callable) ||
             lg_callwatch_verdict(watch, frame_code(frame)) == 0 ||
             !lg_shadow_leave(&thread->shadow, (uintptr_t)frame | LG_SHADOW_C, NULL, &entry)) {
        return;
    }
    uint64_t now = lg_ticks_now(&watch->ticks);
    if (now - entry.start >= watch->threshold) {
        struct lg_ended e = {.entry = entry,
                             .now = now,
                             .frame = (PyObject *)frame,
                             .code = frame_code(frame),
                             .callable = callable,
                             .line = PyFrame_GetLineNumber(frame)};
        lg_callwatch_ended(watch, thread, &e);
    }
}

static int
on_event(PyObject *self, PyFrameObject *frame, int what, PyObject *arg)
{
    struct lg_callwatch *watch = (struct lg_callwatch *)self;
    switch (what) {
    case PyTrace_CALL:
        entered(watch, frame);
        break;
    case PyTrace_RETURN:
        left(watch, frame);
        break;
    case PyTrace_C_CALL:
        c_entered(watch, frame, arg);
        break;
    case PyTrace_C_RETURN:
    case PyTrace_C_EXCEPTION:
        c_left(watch, frame, arg);
        break;
    default:
        break;
    }
    return 0;
}

/* ---- the place of a thread's profile function --------------------------- */

static bool
is_ours(const PyThreadState *tstate)
{
    return tstate->c_profilefunc == on_event;
}

static int
arm(struct lg_callwatch *watch, PyThreadState *tstate)
{
    void *bigger =
        realloc(watch->profiles, (watch->profile_count + 1) * sizeof(struct lg_saved_profile));
    if (bigger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    watch->profiles = bigger;
    watch->profiles[watch->profile_count++] =
        (struct lg_saved_profile){.thread = tstate->id,
                                  .function = tstate->c_profilefunc,
                                  .object = Py_XNewRef(tstate->c_profileobj)};
    return _PyEval_SetProfile(tstate, on_event, (PyObject *)watch);
}

int
lg_callwatch_profile_start(struct lg_callwatch *watch)
{
    PyThreadState *tstate =
        PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(PyThreadState_Get()));
    for (; tstate != NULL; tstate = PyThreadState_Next(tstate)) {
        if (!is_ours(tstate) && arm(watch, tstate) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Called as the Python profile function of a new thread: takes its own place. */
int
lg_callwatch_profile_here(struct lg_callwatch *watch)
{
    return _PyEval_SetProfile(PyThreadState_Get(), on_event, (PyObject *)watch);
}

static const struct lg_saved_profile *
saved_of(const struct lg_callwatch *watch, uint64_t thread)
{
    for (uint32_t i = 0; i < watch->profile_count; i++) {
        if (watch->profiles[i].thread == thread) {
            return &watch->profiles[i];
        }
    }
    return NULL;                        /* a thread that is newer than us */
}

int
lg_callwatch_profile_stop(struct lg_callwatch *watch)
{
    int others = 0;
    int err = 0;
    PyThreadState *tstate =
        PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(PyThreadState_Get()));
    for (; tstate != NULL; tstate = PyThreadState_Next(tstate)) {
        const struct lg_saved_profile *before = saved_of(watch, tstate->id);
        if (is_ours(tstate)) {
            err |= before != NULL ? _PyEval_SetProfile(tstate, before->function, before->object)
                                  : _PyEval_SetProfile(tstate, NULL, NULL);
        }
        else if (before != NULL) {
            others++;
        }
    }
    for (uint32_t i = 0; i < watch->profile_count; i++) {
        Py_XDECREF(watch->profiles[i].object);
    }
    free(watch->profiles);
    watch->profiles = NULL;
    watch->profile_count = 0;
    return err < 0 ? -1 : others;
}

#endif
