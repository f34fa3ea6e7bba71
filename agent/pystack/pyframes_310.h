/*
 * pyframes_310.h - where CPython 3.10 keeps frames, code, GIL and collector.
 *
 * As 3.9, but f_lasti counts code units and the line table is another. Included by pystack.c only.
 */
#include <frameobject.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>

static void
fill_layout(struct lg_pylayout *l)
{
    *l = (struct lg_pylayout){
        .name = "3.10",
        .lines_form = LG_PYLINES_LINETABLE,
        .frame_objects = true,
        .lasti_bytes = sizeof(_Py_CODEUNIT),
        .ts_bytes = offsetof(PyThreadState, id) + sizeof(uint64_t),
        .ts_interp = offsetof(PyThreadState, interp),
        .ts_frame = offsetof(PyThreadState, frame),
        .cframe_frame = LG_ABSENT,
        .ts_thread_id = offsetof(PyThreadState, thread_id),
        .ts_native_id = LG_ABSENT,
        .ts_id = offsetof(PyThreadState, id),
        .ts_chunk = LG_ABSENT,
        .fr_bytes = offsetof(PyFrameObject, f_lasti) + sizeof(int),
        .fr_previous = offsetof(PyFrameObject, f_back),
        .fr_code = offsetof(PyFrameObject, f_code),
        .fr_instr = offsetof(PyFrameObject, f_lasti),
        .fr_owner = offsetof(PyFrameObject, f_gen),
        .co_bytes = sizeof(PyCodeObject),
        .co_instr = offsetof(PyCodeObject, co_code),
        .co_file = offsetof(PyCodeObject, co_filename),
        .co_name = offsetof(PyCodeObject, co_name),
        .co_lines = offsetof(PyCodeObject, co_linetable),
        .co_consts = offsetof(PyCodeObject, co_consts),
        .co_first_line = offsetof(PyCodeObject, co_firstlineno),
        .co_traceable = LG_ABSENT,
        .co_version = LG_ABSENT,
    };
}

static void
fill_gil(struct lg_pystack *ps, PyInterpreterState *interp)
{
    struct _gil_runtime_state *gil = &_PyRuntime.ceval.gil;
    ps->gil_start = (uint64_t)(uintptr_t)gil;
    ps->gil_end = (uint64_t)(uintptr_t)(gil + 1);
    ps->gil_locked = (uint64_t)(uintptr_t)&gil->locked;
    /* NULL as soon as the GIL is let go, unlike gil->last_holder. */
    ps->gil_holder = (uint64_t)(uintptr_t)&_PyRuntime.gilstate.tstate_current;
    ps->gc_collecting = (uint64_t)(uintptr_t)&interp->gc.collecting;
    for (int i = 0; i < 3; i++) {
        ps->gc_thresholds[i] = (uint64_t)(uintptr_t)&interp->gc.generations[i].threshold;
    }
}
