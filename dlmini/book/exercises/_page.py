"""The field under an untouched exercise: the page reads an answer and judges it by Python's table.

The script builds the field itself, so that where scripts are not allowed there is no dead one.
It is no <form>: Colab's sandbox does not let forms be submitted, Enter and the button do it here.
"""

import json

_STYLE = """
.dl-try{display:flex;align-items:flex-end;gap:.4em .8em;margin:.4em 0 .2em;padding:0;
border:0;min-width:0}
.dl-try legend{float:none;width:auto;margin:0;padding:0;font:inherit}
.dl-try label{display:flex;flex-wrap:wrap;align-items:center;gap:.2em .6em;margin:0;min-width:0;
min-height:44px}
.dl-try.dl-choice{flex-direction:column;align-items:stretch;gap:0}
.dl-try.dl-choice label{flex-wrap:nowrap;padding:.25em 0;cursor:pointer}
.dl-try input{box-sizing:border-box;margin:0;color:inherit;font:inherit}
.dl-try input[type=text]{flex:1 1 9em;width:9em;min-width:0;min-height:44px;padding:0 .6em;
font-size:max(16px,1em);border:1px solid rgb(127,127,127);border-radius:6px;background:transparent}
.dl-try input[type=radio]{flex:none;width:1.25em;height:1.25em;accent-color:#2b8cc4;cursor:pointer}
.dl-try button{flex:none;min-height:44px;margin:0;padding:0 1.2em;color:inherit;font:inherit;
font-weight:600;border:1px solid rgb(127,127,127);border-radius:6px;
background:rgba(127,127,127,.15);cursor:pointer}
.dl-choice button{align-self:flex-start}
.dl-try button:hover{background:rgba(127,127,127,.3)}
.dl-try :focus-visible{outline:2px solid #2b8cc4;outline-offset:2px}
@media print{.dl-try:not(.dl-choice),.dl-try input,.dl-try button,.dl-try legend,
.dl-here{display:none}
.dl-try label{min-height:0;padding:0!important}}
"""

# `fits` and `judge` are _fits and _judge of this package, line by line.
_SCRIPT = r"""
(function(){
var me=document.currentScript,root=me&&me.closest('.dl-check')||document.getElementById('NAME');
var d=JSON.parse(root.querySelector('.dl-table').textContent),old=root.querySelector('.dl-try');
function fits(rule,x){
if('is' in rule)return rule.is===x;
if('from' in rule)return rule.from<=x&&x<=rule.to;
return rule.near.some(function(b){return Math.abs(x-b)<=rule.rtol*Math.abs(b);});
}
function judge(x){
if(x!==x)return ['wrong',d.nan];
if(Math.abs(x)===Infinity)return ['wrong',d.infinite];
for(var i=0;i<d.rules.length;i++)
if(fits(d.rules[i],x))return [i?'wrong':'correct',d.rules[i].says];
return ['wrong',d.otherwise];
}
function term(t){
if(/^nan$/i.test(t))return NaN;
if(/^[+-]?(inf|infinity|∞)$/i.test(t))return Infinity;
if(/^[+-]?[1-9]\d{0,2}(,\d{3}){2,}(\.\d*)?$|^[+-]?[1-9]\d{0,2},\d{3}\.\d*$/.test(t))
t=t.replace(/,/g,'');
var m=/^([+-]?)(\d+[.,]?\d*|[.,]\d+)(?:e([+-]?\d+)|[×·*x]10\^([+-]?\d+))?$/i.exec(t);
if(m)return +(m[1]+m[2].replace(',','.')+'e'+(m[3]||m[4]||0));
m=/^([+-]?)10\^([+-]?\d+)$/.exec(t);
return m?+(m[1]+'1e'+m[2]):null;
}
function read(text){
var up='⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻',t=text.trim().replace(/[⁰¹²³⁴-⁹⁺⁻]+/g,function(s){
return '^'+s.replace(/./g,function(c){return '0123456789+-'[up.indexOf(c)];});});
t=t.replace(/[−–]/g,'-').replace(/\*\*/g,'^').replace(/(\d)\s(?=\d{3}(?!\d))/g,'$1')
.replace(/\s*([\/×·*x^+-])\s*/gi,'$1');
if(!t)return ['not attempted','type a number first'];
if(/(^|[^\d,.])[1-9]\d{0,2},\d{3}(?![\d,.])/.test(t))return ['not attempted','“'+text.trim()+
'” has two readings: write a decimal point as a dot, and thousands without a comma'];
var v=t.split('/').map(term),x=v.length>1?v[0]/v[1]:v[0];
if(v.length>2||v.indexOf(null)>=0)return ['not attempted','“'+text.trim()+
'” cannot be read as a number: write it like 0.5, 1/2 or 1e-3'];
return judge(x);
}
function make(tag,all,inside){
var e=document.createElement(tag),k;
for(k in all)e.setAttribute(k,all[k]);
(inside||[]).forEach(function(c){e.append(c);});
return e;
}
function answer(){
if(!d.options)return read(inputs[0].value);
var mine=inputs.filter(function(i){return i.checked;})[0];
return mine?judge(mine.value):['not attempted','choose one first'];
}
function check(){
var says=answer(),look=d.looks[says[0]];
parts[0].textContent=look[0];
parts[1].textContent=d.id+' · '+look[2];
parts[2].textContent=says[1];
root.style.borderLeftColor=look[1];
}
function field(all){
all['data-lm-suppress-shortcuts']='true';
var e=make('input',all);
e.addEventListener('keydown',function(k){
if(k.key==='Enter'&&!k.isComposing&&!k.shiftKey&&!k.ctrlKey){k.preventDefault();check();}});
inputs.push(e);
return e;
}
var parts=root.firstElementChild.children,inputs=[],label='Your answer to '+d.id;
var button=make('button',
{type:'button','aria-label':'Check '+d.id,'data-lm-suppress-shortcuts':'true'},['Check']),all;
button.addEventListener('click',check);
if(d.options)all=make('fieldset',{'class':'dl-try dl-choice'},[make('legend',{},[label])].concat(
d.options.map(function(o){return make('label',{},
[field({type:'radio',name:root.id,value:o[0]}),o[0]+') '+o[1]]);}),[button]));
else all=make('div',{'class':'dl-try'},[make('label',{},['Your answer',field({type:'text',
'aria-label':label,inputmode:d.rules[0].near[0]<0?'text':'decimal',autocomplete:'off',
spellcheck:'false'})]),button]);
if(old)old.remove();
else parts[2].prepend(make('span',{'class':'dl-here'},['answer here, or ']));
root.firstElementChild.after(all);
})();
"""


def field(name: str, table: dict) -> str:
    """Style, table and script that make a box with a verdict into one that takes answers.

    Args:
        name: id of the box.
        table: of the exercise; its rules, and all words that Python would say.
    """
    data = json.dumps(table, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")
    return (
        f"<style>{_STYLE}</style>"
        f'<script type="application/json" class="dl-table">{data}</script>'
        f"<script>{_SCRIPT.replace('NAME', name)}</script>"
    )
